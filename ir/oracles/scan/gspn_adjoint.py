"""Oracle of scan.gspn_adjoint: the gradients written out, from the gradient dh of the output and the output h itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.scan.gspn import _from_walk, _to_walk

if TYPE_CHECKING:
    import torch


def oracle(
    attrs: Mapping[str, Any],
    state: torch.dtype,
    *,
    x: torch.Tensor,
    lam: torch.Tensor,
    gates: torch.Tensor,
    dh: torch.Tensor,
    h: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """dx, dlam and dgates of scan.gspn, computed in `state`."""
    import torch

    direction, shared = attrs["direction"], gates.shape[2] != x.shape[1]
    x, lam, gates, dh, h = (_to_walk(t.to(state), direction) for t in (x, lam, gates, dh, h))
    steps, width = x.shape[-1], x.shape[-2]
    chunk = attrs["chunk"] or steps
    a = torch.zeros_like(dh)  # gradient of h, all later uses included
    dgates = torch.zeros(x.shape[0], 3, *x.shape[1:], dtype=state)  # per channel; summed below where channels share
    for t in reversed(range(steps)):
        a[..., t] = dh[..., t]
        for k in range(3):
            # Pixel q = l - (k - 1) of the next line used this line's pixel l through its gate k.
            lo, hi = max(0, 1 - k), min(width, width + 1 - k)  # the q whose neighbour l = q + k - 1 exists
            if lo >= hi:
                continue
            used = slice(lo + k - 1, hi + k - 1)
            if t + 1 < steps and (t + 1) % chunk:
                a[..., used, t] += gates[:, k, :, lo:hi, t + 1] * a[..., lo:hi, t + 1]
        for k in range(3):
            lo, hi = max(0, 1 - k), min(width, width + 1 - k)
            if lo < hi and t % chunk:
                dgates[:, k, :, lo:hi, t] = a[..., lo:hi, t] * h[..., lo + k - 1 : hi + k - 1, t - 1]
    if shared:
        dgates = dgates.sum(2, keepdim=True)
    return {name: _from_walk(t, direction) for name, t in (("dx", lam * a), ("dlam", x * a), ("dgates", dgates))}
