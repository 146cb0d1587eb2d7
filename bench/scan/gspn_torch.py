"""The torch side of the GSPN benchmarks: a compiled step walked in Python.

torch.compile unrolls a loop over lines, and takes minutes to trace a thousand steps: what is compiled here is one step, and
Python calls it line by line, as somebody would who wants to use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

Step = Callable[..., Tensor]


@cache
def step() -> Step:
    """One line of the scan from the line before it, compiled."""

    def line(x: Tensor, lam: Tensor, g0: Tensor, g1: Tensor, g2: Tensor, h: Tensor) -> Tensor:
        return lam * x + g0 * pad(h, (1, 0))[..., :-1] + g1 * h + g2 * pad(h, (0, 1))[..., 1:]

    return torch.compile(line, dynamic=False)


def scan(direction: str, x: Tensor, lam: Tensor, gates: Tensor) -> Tensor:
    """h of scan.gspn by the compiled step."""
    axis = 2 if direction in ("t2b", "b2t") else 3
    order = range(x.shape[axis]) if direction in ("t2b", "l2r") else reversed(range(x.shape[axis]))
    xs, lams, (g0, g1, g2) = x.unbind(axis), lam.unbind(axis), (g.unbind(axis) for g in gates.unbind(1))
    run, lines, h = step(), {}, torch.zeros_like(xs[0])
    for t in order:
        lines[t] = h = run(xs[t], lams[t], g0[t], g1[t], g2[t], h)
    return torch.stack([lines[t] for t in range(len(lines))], axis)


def gradients(direction: str, inputs: Mapping[str, Tensor], dh: Tensor) -> Callable[[], Any]:
    """The backward pass alone of the scan by the compiled step."""
    leaves = [t.detach().requires_grad_() for t in inputs.values()]
    h = scan(direction, *leaves)
    return lambda: torch.autograd.grad(h, leaves, dh, retain_graph=True)
