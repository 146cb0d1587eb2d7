"""CUDA schedules of scan.gspn_gates_adjoint."""

ORDER = ("pixels",)
