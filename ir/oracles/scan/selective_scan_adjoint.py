"""Oracle of scan.selective_scan_adjoint: the recurrence differentiated by torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.scan.selective_scan import DRAWN, inputs, operands, recurrence

if TYPE_CHECKING:
    import torch

__all__ = ["DRAWN", "inputs", "oracle"]

#: Channels whose gradients of B and C make one part.
PART = 32


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch

    leaves = {name: t.detach().clone().requires_grad_() for name, t in operands(dtype, inputs).items()}
    ends = recurrence(attrs, **leaves)
    upstream = [inputs[name].to(dtype) for name in ("dy", "dlast")]
    found = torch.autograd.grad(ends, list(leaves.values()), upstream)
    grads = {f"d{name}": g for name, g in zip(leaves, found, strict=True)}
    for name in ("dB", "dC"):
        grads[name] = torch.stack([part.sum(2) for part in grads[name].split(PART, 2)], 2)
    return grads
