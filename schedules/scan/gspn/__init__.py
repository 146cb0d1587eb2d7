"""CUDA schedules of scan.gspn; the first that applies is the default."""

ORDER = ("line", "tile")
