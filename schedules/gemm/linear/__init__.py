"""CUDA schedules of gemm.linear, the default first."""

ORDER = ("mma", "simt")
