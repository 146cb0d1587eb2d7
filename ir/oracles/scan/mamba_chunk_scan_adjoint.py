"""Oracle of scan.mamba_chunk_scan_adjoint: autograd through the recurrence, its shared operands one for each token and head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.scan.mamba_chunk_scan import DRAWN, inputs, operands, recurrence

if TYPE_CHECKING:
    import torch

__all__ = ["DRAWN", "inputs", "oracle"]

HEADS = 8


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **given: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch
    import torch.nn.functional as F

    leaves = {n: t.detach().clone().requires_grad_() for n, t in operands(attrs, dtype, given).items()}
    y, final = recurrence(attrs, given["chunks"], given["first"], **leaves)
    grads = torch.autograd.grad([y, final], list(leaves.values()), [given["dy"].to(dtype), given["dfinal"].to(dtype)])
    d = {f"d{n}": g for n, g in zip(leaves, grads, strict=True)}
    count = len(given["seq"])

    def by_chunk(each: torch.Tensor) -> torch.Tensor:
        return each.new_zeros(count, *each.shape[1:]).index_add(0, given["chunk"].long(), each)

    def by_part(each: torch.Tensor) -> torch.Tensor:
        padded = F.pad(each, (0, 0, 0, -each.shape[2] % HEADS))
        return padded.unflatten(2, (-1, HEADS)).sum(3)

    shared = {"dD": by_chunk(d["dD"])} if "dD" in d else {}
    return d | shared | {n: by_part(d[n]) for n in ("dB", "dC")}
