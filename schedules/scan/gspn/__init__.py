"""CUDA schedules of scan.gspn; the first that applies is the default."""

ORDER = ("line", "tile", "per_step", "one_launch", "coalesced", "shuffle", "together", "staged", "latency", "cluster")
