"""CUDA schedules of image.patch_embed, the default first."""

ORDER = ("mma", "simt")
