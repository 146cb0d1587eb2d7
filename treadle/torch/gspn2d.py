"""gspn2d: the four directions, output gates, D-skip and merge as one torch operator, `scan.gspn2d` and its adjoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from treadle.errors import ArgumentError
from treadle.torch import checks
from treadle.torch.kernels import run

DIRECTIONS = len(checks.DIRECTIONS)
#: Lines between the states that the backward pass holds; 0 is all of them.
CHECKPOINTS = (0, 32, 64)


def gspn2d(
    x: Tensor,
    lam: Tensor,
    logits: Tensor,
    u: Tensor,
    d: Tensor | None = None,
    merge: Tensor | None = None,
    chunk: int = 0,
    *,
    checkpoint: int = 0,
) -> Tensor:
    """y = sum_e merge[e] (u[e] h_e + d[e] x), [N,C,H,W], h_e the scan of x by lam[e] and the gates of logits[e].

    Directions e are t2b, b2t, l2r, r2l. x is [N,C,H,W]; lam, u and d are [N,4,C,H,W]; logits [N,4,3,G,H,W] with G = C or
    G = 1; merge is [4]. Without merge each direction has a quarter, without d there is no skip. Nothing but the arguments is
    kept for the backward pass, which makes gates and states again. On the CPU `checkpoint` = 32 or 64 has it hold every so
    many lines of a plane's states at a time, and not all: the same gradients to the bit, less memory, a third walk.
    """
    return _gspn2d(x, lam, logits, u, d, merge, chunk, checkpoint)


def _check(
    x: Tensor, lam: Tensor, logits: Tensor, u: Tensor, d: Tensor | None, merge: Tensor | None, chunk: int, checkpoint: int
) -> None:  # fmt: skip
    checks.tensors("gspn2d", {"x": x, "lam": lam, "logits": logits, "u": u, "d": d, "merge": merge})
    n, c, h, w = checks.rank("gspn2d", "x", x, "NCHW")
    for name, t in (("lam", lam), ("u", u), ("d", d)):
        if t is not None:
            checks.shape("gspn2d", name, t, (n, DIRECTIONS, c, h, w), "N,4,C,H,W")
    g = checks.rank("gspn2d", "logits", logits, "NDKGHW")[3]
    checks.shape("gspn2d", "logits", logits, (n, DIRECTIONS, 3, g, h, w), "N,4,3,G,H,W")
    checks.groups("gspn2d", "logits", g, c)
    if merge is not None:
        checks.shape("gspn2d", "merge", merge, (DIRECTIONS,), "4")
    checks.choices("gspn2d", None, chunk)
    kept = CHECKPOINTS if x.device.type != "cuda" else (0,)
    if checkpoint not in kept:
        raise ArgumentError(f"gspn2d: checkpoint on {x.device.type}", given=repr(checkpoint), expected=f"one of {list(kept)}")


def _arguments(
    x: Tensor, lam: Tensor, logits: Tensor, u: Tensor, d: Tensor | None, merge: Tensor | None
) -> list[Tensor]:  # fmt: skip
    """As the Programs take them."""
    if merge is None:
        merge = x.new_full((DIRECTIONS,), 1 / DIRECTIONS)
    return [x, lam, logits, u, *([] if d is None else [d]), merge]


def _attrs(x: Tensor, d: Tensor | None, chunk: int) -> dict[str, Any]:
    return {"chunk": checks.pieces(chunk, x.shape[2], x.shape[3]), "skip": d is not None}


@torch.library.custom_op("treadle::gspn2d", mutates_args=())
def _gspn2d(
    x: Tensor, lam: Tensor, logits: Tensor, u: Tensor, d: Tensor | None, merge: Tensor | None, chunk: int, checkpoint: int = 0
) -> Tensor:  # fmt: skip
    _check(x, lam, logits, u, d, merge, chunk, checkpoint)
    return run("scan.gspn2d", _arguments(x, lam, logits, u, d, merge), [x.shape], **_attrs(x, d, chunk))[0]


@torch.library.custom_op("treadle::gspn2d_backward", mutates_args=())
def _backward(
    grad: Tensor, x: Tensor, lam: Tensor, logits: Tensor, u: Tensor, d: Tensor | None, merge: Tensor | None, chunk: int, checkpoint: int
) -> list[Tensor]:
    arguments = _arguments(x, lam, logits, u, d, merge)
    planes = x.shape[0], DIRECTIONS, x.shape[1]
    shapes = [*(t.shape for t in arguments[:-1]), planes]
    point = {"checkpoint": checkpoint} if checkpoint else None
    *grads, dmerge = run("scan.gspn2d_adjoint", [grad, *arguments], shapes, point, **_attrs(x, d, chunk))
    # What each plane gives, added up in torch's fixed order.
    return [*grads, dmerge.sum((0, 2), dtype=torch.float32).to(x.dtype)]


@_gspn2d.register_fake
def _(
    x: Tensor, lam: Tensor, logits: Tensor, u: Tensor, d: Tensor | None, merge: Tensor | None, chunk: int, checkpoint: int = 0
) -> Tensor:  # fmt: skip
    _check(x, lam, logits, u, d, merge, chunk, checkpoint)
    return x.new_empty(x.shape)


@_backward.register_fake
def _(
    grad: Tensor, x: Tensor, lam: Tensor, logits: Tensor, u: Tensor, d: Tensor | None, merge: Tensor | None, chunk: int, checkpoint: int
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in (x, lam, logits, u, d) if t is not None] + [x.new_empty((DIRECTIONS,))]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.chunk, ctx.checkpoint = inputs
    ctx.save_for_backward(*tensors)


def _pull(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *_, d, merge = ctx.saved_tensors
    grads = list(_backward(grad, *ctx.saved_tensors, ctx.chunk, ctx.checkpoint))
    if d is None:
        grads.insert(4, None)
    return *grads[:5], None if merge is None else grads[5], None, None


_gspn2d.register_autograd(_pull, setup_context=_save)
