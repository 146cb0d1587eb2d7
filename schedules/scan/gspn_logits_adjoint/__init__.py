"""CUDA schedules of scan.gspn_logits_adjoint."""

ORDER = ("states",)
