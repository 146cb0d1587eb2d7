"""CUDA schedules of scan.gspn2d_adjoint."""

ORDER = ("states",)
