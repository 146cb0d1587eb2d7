"""Oracle of scan.gspn2d_adjoint: the chain rule written out, direction by direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.scan import gspn_logits, gspn_logits_adjoint
from treadle.ir.oracles.scan.gspn2d import DIRECTIONS

if TYPE_CHECKING:
    import torch


def oracle(
    attrs: Mapping[str, Any],
    state: torch.dtype,
    *,
    dy: torch.Tensor,
    x: torch.Tensor,
    lam: torch.Tensor,
    logits: torch.Tensor,
    u: torch.Tensor,
    merge: torch.Tensor,
    d: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Gradients of scan.gspn2d; dmerge [N,4,C] is what each plane adds to that of merge."""
    import torch

    x, lam, logits, u, merge, dy = (t.to(state) for t in (x, lam, logits, u, merge, dy))
    dx, each = torch.zeros_like(x), []
    for e, direction in enumerate(DIRECTIONS):
        walk = {"direction": direction, "chunk": attrs["chunk"]}
        inputs = {"x": x, "lam": lam[:, e], "logits": logits[:, e]}
        h = gspn_logits.oracle(walk, state, **inputs)["h"]
        gated = u[:, e] * h
        found = gspn_logits_adjoint.oracle(walk, state, dh=merge[e] * u[:, e] * dy, **inputs)
        dx = dx + found["dx"]
        slices = {"dlam": found["dlam"], "dlogits": found["dlogits"], "du": merge[e] * dy * h}
        if d is not None:
            skip = d[:, e].to(state)
            gated = gated + skip * x
            slices["dd"] = merge[e] * dy * x
            dx = dx + merge[e] * skip * dy
        slices["dmerge"] = (dy * gated).sum((2, 3))
        each.append(slices)
    return {"dx": dx, **{name: torch.stack([s[name] for s in each], 1) for name in each[0]}}
