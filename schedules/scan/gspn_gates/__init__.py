"""CUDA schedules of scan.gspn_gates."""

ORDER = ("pixels",)
