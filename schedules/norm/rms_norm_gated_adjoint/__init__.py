"""CUDA schedules of norm.rms_norm_gated_adjoint."""

ORDER = ("row_teams",)
