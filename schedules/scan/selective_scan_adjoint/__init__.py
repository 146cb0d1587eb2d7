"""CUDA schedules of scan.selective_scan_adjoint."""

ORDER = ("walk",)
