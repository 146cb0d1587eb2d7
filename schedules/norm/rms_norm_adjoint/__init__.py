"""CUDA schedules of norm.rms_norm_adjoint."""

ORDER = ("row_teams",)
