"""gspn_scan: `scan.gspn` and its adjoint as torch operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from treadle.torch import checks
from treadle.torch.kernels import run


def gspn_scan(x: Tensor, lam: Tensor, gates: Tensor, direction: str = "t2b", chunk: int = 0) -> Tensor:
    """One line scan: h[t,l] = lam[t,l] x[t,l] + sum_k gates[k,t,l] h[t-1,l+k-1], k = 0..2, in image orientation.

    x, lam and the result are [N,C,H,W], gates [N,3,G,H,W] with G = C or G = 1. t2b and b2t walk H with lines along W, l2r
    and r2l walk W with lines along H. `chunk` > 0 starts afresh every so many steps, counted from the walk's start; a chunk
    longer than the walk is one walk. The state is float32; gradients of shared gates are summed over channels in order.
    """
    return _scan(x, lam, gates, direction, chunk)


def _check(x: Tensor, lam: Tensor, gates: Tensor, direction: str, chunk: int) -> None:
    checks.tensors("gspn_scan", {"x": x, "lam": lam, "gates": gates})
    n, c, h, w = checks.rank("gspn_scan", "x", x, "NCHW")
    checks.shape("gspn_scan", "lam", lam, (n, c, h, w), "N,C,H,W")
    g = checks.rank("gspn_scan", "gates", gates, "NKGHW")[2]
    checks.shape("gspn_scan", "gates", gates, (n, 3, g, h, w), "N,3,G,H,W")
    checks.groups("gspn_scan", "gates", g, c)
    checks.choices("gspn_scan", direction, chunk)


def _attrs(x: Tensor, direction: str, chunk: int) -> dict[str, Any]:
    steps = x.shape[2] if direction in ("t2b", "b2t") else x.shape[3]
    return {"direction": direction, "chunk": checks.pieces(chunk, steps)}


@torch.library.custom_op("treadle::gspn_scan", mutates_args=())
def _scan(x: Tensor, lam: Tensor, gates: Tensor, direction: str, chunk: int) -> Tensor:
    _check(x, lam, gates, direction, chunk)
    return run("scan.gspn", [x, lam, gates], [x.shape], **_attrs(x, direction, chunk))[0]


@torch.library.custom_op("treadle::gspn_scan_backward", mutates_args=())
def _backward(
    grad: Tensor, x: Tensor, lam: Tensor, gates: Tensor, h: Tensor, direction: str, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = x.shape, lam.shape, gates.shape
    dx, dlam, dgates = run("scan.gspn_adjoint", [grad, x, lam, gates, h], shapes, **_attrs(x, direction, chunk))
    return dx, dlam, dgates


@_scan.register_fake
def _(x: Tensor, lam: Tensor, gates: Tensor, direction: str, chunk: int) -> Tensor:
    _check(x, lam, gates, direction, chunk)
    return x.new_empty(x.shape)


@_backward.register_fake
def _(
    grad: Tensor, x: Tensor, lam: Tensor, gates: Tensor, h: Tensor, direction: str, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(lam.shape), x.new_empty(gates.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.direction, ctx.chunk = inputs
    ctx.save_for_backward(*tensors, output)


def _pull(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(grad, *ctx.saved_tensors, ctx.direction, ctx.chunk), None, None


_scan.register_autograd(_pull, setup_context=_save)
