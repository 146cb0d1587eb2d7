"""Oracle of scan.selective_scan: the recurrence, one step after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from treadle.ir import Program

#: States that checks draw: below, at and above a vector, and no multiple of one.
DRAWN = {"state": (1, 3, 8, 16, 16, 16, 21, 40)}


def inputs(
    program: Program, drawn: dict[str, torch.Tensor], sizes: Mapping[str, int], rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """A <= 0, now and then 0 or far below; now and then steps of 0, large ones, and biases of -12."""
    import torch

    def some(share: float, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(rng.random(tuple(like.shape)) < share)

    a, delta, bias = drawn["A"], drawn["delta"], drawn["delta_bias"]
    if not program.attrs["softplus"]:
        # Steps below zero make states grow: a few, and none so far that float32 overflows.
        delta, bias = torch.where(some(0.98, delta), delta.abs(), -0.01), bias.abs()
    a = -torch.exp(2 * a)
    a = torch.where(some(0.1, a), 0.0, torch.where(some(0.1, a), -1e30, a))
    if not program.attrs["softplus"]:
        a = a.clamp(min=-100.0)
    delta = torch.where(some(0.1, delta), 0.0, torch.where(some(0.02, delta), 30.0, delta))
    bias = torch.where(some(0.2, bias), -12.0 if program.attrs["softplus"] else 0.0, bias)
    return drawn | {"A": a, "delta": delta.to(drawn["delta"].dtype), "delta_bias": bias}


def recurrence(
    attrs: Mapping[str, Any], u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor,
    D: torch.Tensor, delta_bias: torch.Tensor, initial: torch.Tensor, z: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """y [S,G,R,L] and the last states; u, delta, z [S,G,R,L], A, initial [S,G,R,N], B, C [S,G,R,N,L], D, delta_bias [S,G,R]."""
    import torch

    step = delta + delta_bias[..., None]
    if attrs["softplus"]:
        step = torch.logaddexp(step, torch.zeros_like(step))
    h, out = initial, []
    for t in range(u.shape[-1]):
        now = step[..., t, None]
        h = torch.exp(now * A) * h + now * u[..., t, None] * B[..., t]
        out.append((h * C[..., t]).sum(-1))
    y = torch.stack(out, -1) + D[..., None] * u
    return (y if z is None else y * torch.nn.functional.silu(z)), h


def operands(dtype: torch.dtype, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `recurrence` takes: every operand a row for each sequence, B and C for each channel."""
    s, _, r, _ = given["u"].shape
    wide = {name: t.to(dtype) for name, t in given.items() if name not in ("dy", "dlast")}
    for name in ("A", "D", "delta_bias"):
        wide[name] = wide[name].expand(s, *wide[name].shape)
    for name in ("B", "C"):
        wide[name] = wide[name][:, :, None].expand(-1, -1, r, -1, -1)
    return wide


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    y, last = recurrence(attrs, **operands(dtype, inputs))
    return {"y": y, "last": last}
