"""CUDA schedules of scan.causal_conv1d."""

ORDER = ("windows",)
