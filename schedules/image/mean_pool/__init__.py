"""CUDA schedules of image.mean_pool."""

ORDER = ("block_rows",)
