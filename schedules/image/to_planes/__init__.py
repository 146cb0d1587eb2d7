"""CUDA schedules of image.to_planes."""

ORDER = ("tile",)
