"""CUDA schedules of norm.layer_norm."""

ORDER = ("block_rows",)
