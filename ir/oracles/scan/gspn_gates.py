"""Oracle of scan.gspn_gates: neighbours outside a line have no weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: The axis of [N,3,G,H,W] that a line runs along: vertical scans have horizontal lines.
LINE_AXIS = {"t2b": 4, "b2t": 4, "l2r": 3, "r2l": 3}


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch

    logits, line = inputs["logits"], LINE_AXIS[attrs["direction"]]
    exists = torch.ones_like(logits, dtype=torch.bool)
    exists.select(1, 0).select(line - 1, 0).zero_()
    exists.select(1, 2).select(line - 1, logits.shape[line] - 1).zero_()
    weight = torch.where(exists, torch.sigmoid(logits.to(dtype)), 0)  # not in place: autograd passes through here
    return {"gates": weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-7)}
