"""CUDA schedules of scan.gspn_adjoint; the first that applies is the default."""

ORDER = ("line", "tile", "staged", "together", "shuffle", "cluster", "coalesced", "one_launch")
