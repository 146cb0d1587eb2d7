"""CUDA schedules of scan.causal_conv1d_update."""

ORDER = ("channels",)
