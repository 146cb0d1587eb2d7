"""Oracle of scan.gspn_gates_adjoint: the quotient rule written out, neighbours outside a line left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.scan.gspn_gates import LINE_AXIS

if TYPE_CHECKING:
    import torch


def oracle(
    attrs: Mapping[str, Any], state: torch.dtype, *, logits: torch.Tensor, dgates: torch.Tensor
) -> dict[str, torch.Tensor]:
    import torch

    exists = torch.ones_like(logits, dtype=torch.bool)
    line = LINE_AXIS[attrs["direction"]]
    exists.select(1, 0).select(line - 1, 0).fill_(False)
    exists.select(1, 2).select(line - 1, logits.shape[line] - 1).fill_(False)
    s = torch.where(exists, torch.sigmoid(logits.to(state)), 0)
    dgates = torch.where(exists, dgates.to(state), 0)
    total = s.sum(1, keepdim=True)
    mean = (s / total * dgates).sum(1, keepdim=True)  # of the gradients, weighted by the gates
    dlogits = torch.where(total >= 1e-7, s * (1 - s) / total * (dgates - mean), s * (1 - s) / 1e-7 * dgates)
    return {"dlogits": torch.where(exists, dlogits, 0)}
