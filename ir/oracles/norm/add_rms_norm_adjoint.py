"""Oracle of norm.add_rms_norm_adjoint: the norm of a given sum, differentiated by torch, and the sum's own gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.norm.rms import gradients, normed

if TYPE_CHECKING:
    import torch


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    dy, dres, total, weight = (inputs[name].to(dtype) for name in ("dy", "dres", "sum", "weight"))
    (dsum,), dweight = gradients(lambda u, w: normed(u, attrs["eps"]) * w, dy, weight, total)
    return {"dsum": dsum + dres, "dweight": dweight}
