"""Sizes at which the kit times fused scans: the latent maps of C-GSPN at 1036 pixels, batch 32, its gates shared.

Gradients take scratch memory of eight float32 a pixel and channel beside their tensors: a smaller batch.
"""

from __future__ import annotations

from collections.abc import Mapping

_MAP = {"C": 64, "H": 74, "W": 74, "G": 1}
SIZES: Mapping[str, Mapping[str, int]] = {
    "scan.gspn2d": {"N": 32, **_MAP},
    "scan.gspn2d_adjoint": {"N": 8, **_MAP},
    "scan.gspn_logits": {"N": 32, **_MAP},
    "scan.gspn_logits_adjoint": {"N": 8, **_MAP},
}
