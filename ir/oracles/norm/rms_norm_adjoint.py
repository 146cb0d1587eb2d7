"""Oracle of norm.rms_norm_adjoint: the definition, differentiated by torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.norm.rms import gradients, normed

if TYPE_CHECKING:
    import torch


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    dy, x, weight = (inputs[name].to(dtype) for name in ("dy", "x", "weight"))
    (dx,), dweight = gradients(lambda x, w: normed(x, attrs["eps"]) * w, dy, weight, x)
    return {"dx": dx, "dweight": dweight}
