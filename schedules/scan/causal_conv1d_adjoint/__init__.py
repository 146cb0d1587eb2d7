"""CUDA schedules of scan.causal_conv1d_adjoint."""

ORDER = ("windows",)
