"""CUDA schedules of scan.gspn_logits."""

ORDER = ("plane",)
