"""CUDA schedules of scan.gspn2d."""

ORDER = ("plane",)
