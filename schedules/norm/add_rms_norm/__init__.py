"""CUDA schedules of norm.add_rms_norm."""

ORDER = ("row_teams",)
