"""CUDA schedules of scan.selective_scan."""

ORDER = ("walk",)
