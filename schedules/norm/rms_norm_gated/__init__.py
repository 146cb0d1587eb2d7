"""CUDA schedules of norm.rms_norm_gated."""

ORDER = ("row_teams",)
