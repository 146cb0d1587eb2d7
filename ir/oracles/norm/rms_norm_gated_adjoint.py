"""Oracle of norm.rms_norm_gated_adjoint: the definition, differentiated by torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.norm.rms import gradients
from treadle.ir.oracles.norm.rms_norm_gated import gated

if TYPE_CHECKING:
    import torch


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    dy, x, z, weight = (inputs[name].to(dtype) for name in ("dy", "x", "z", "weight"))
    (dx, dz), dweight = gradients(lambda x, z, w: gated(attrs, x, z, w), dy, weight, x, z)
    return {"dx": dx, "dz": dz, "dweight": dweight}
