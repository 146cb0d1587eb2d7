"""CUDA schedules of scan.gspn_merge."""

ORDER = ("pixels",)
