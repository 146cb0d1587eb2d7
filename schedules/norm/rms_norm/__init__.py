"""CUDA schedules of norm.rms_norm."""

ORDER = ("row_teams",)
