"""CUDA schedules of norm.add_rms_norm_adjoint."""

ORDER = ("row_teams",)
