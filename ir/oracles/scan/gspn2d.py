"""Oracle of scan.gspn2d: four scans, gated, skipped and merged, image orientation throughout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.scan import gspn_logits

if TYPE_CHECKING:
    import torch

DIRECTIONS = ("t2b", "b2t", "l2r", "r2l")


def oracle(
    attrs: Mapping[str, Any],
    state: torch.dtype,
    *,
    x: torch.Tensor,
    lam: torch.Tensor,
    logits: torch.Tensor,
    u: torch.Tensor,
    merge: torch.Tensor,
    d: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """y of scan.gspn2d, computed in `state`."""
    import torch

    y = torch.zeros_like(x, dtype=state)
    for e, direction in enumerate(DIRECTIONS):
        walk = {"direction": direction, "chunk": attrs["chunk"]}
        h = gspn_logits.oracle(walk, state, x=x, lam=lam[:, e], logits=logits[:, e])["h"]
        gated = u[:, e].to(state) * h
        if d is not None:
            gated = gated + d[:, e].to(state) * x.to(state)
        y = y + merge[e].to(state) * gated
    return {"y": y}
