"""Oracle of scan.gspn: the recurrence in plain torch, vectorised over everything but the walk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def oracle(
    attrs: Mapping[str, Any], state: torch.dtype, *, x: torch.Tensor, lam: torch.Tensor, gates: torch.Tensor
) -> dict[str, torch.Tensor]:
    """h of scan.gspn, computed in `state` (float64 is the truth, float32 the yardstick of rounding)."""
    import torch

    # Walk along the last axis, from its start: transpose for t2b and b2t, flip for b2t and r2l. The line is then axis -2.
    x, lam, gates = (_to_walk(t.to(state), attrs["direction"]) for t in (x, lam, gates))
    steps, width = x.shape[-1], x.shape[-2]
    chunk = attrs["chunk"] or steps
    carry = torch.zeros_like(x[..., 0])
    out = []
    for t in range(steps):
        h = lam[..., t] * x[..., t]
        if t % chunk:
            for k in range(3):
                # Destinations whose neighbour at offset k - 1 exists.
                lo, hi = max(0, 1 - k), min(width, width + 1 - k)
                if lo < hi:
                    h[..., lo:hi] = h[..., lo:hi] + gates[:, k, :, lo:hi, t] * carry[..., lo + k - 1 : hi + k - 1]
        carry = h
        out.append(h)
    return {"h": _from_walk(torch.stack(out, -1), attrs["direction"])}


def _to_walk(t: torch.Tensor, direction: str) -> torch.Tensor:
    t = t.transpose(-1, -2) if direction in ("t2b", "b2t") else t
    return t.flip(-1) if direction in ("b2t", "r2l") else t


def _from_walk(t: torch.Tensor, direction: str) -> torch.Tensor:
    t = t.flip(-1) if direction in ("b2t", "r2l") else t
    return t.transpose(-1, -2) if direction in ("t2b", "b2t") else t
