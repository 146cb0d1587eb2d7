"""gspn_gates: `scan.gspn_gates` and its adjoint as torch operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from treadle.torch import checks
from treadle.torch.kernels import run


def gspn_gates(logits: Tensor, direction: str = "t2b") -> Tensor:
    """Gates [N,3,G,H,W] from logits: at each pixel those of the existing neighbours are positive and sum to one.

    s / max(sum of existing s, 1e-7) with s = sigmoid(logits), and 0 where a neighbour lies outside the line.
    """
    return _gates(logits, direction)


def _check(logits: Tensor, direction: str) -> None:
    checks.tensors("gspn_gates", {"logits": logits})
    _, three, *_ = checks.rank("gspn_gates", "logits", logits, "NKGHW")
    checks.choices("gspn_gates", direction, 0)
    if three != 3:
        checks.shape("gspn_gates", "logits", logits, [logits.shape[0], 3, *logits.shape[2:]], "N,3,G,H,W")


@torch.library.custom_op("treadle::gspn_gates", mutates_args=())
def _gates(logits: Tensor, direction: str) -> Tensor:
    _check(logits, direction)
    return run("scan.gspn_gates", [logits], [logits.shape], direction=direction)[0]


@torch.library.custom_op("treadle::gspn_gates_backward", mutates_args=())
def _backward(grad: Tensor, logits: Tensor, direction: str) -> Tensor:
    return run("scan.gspn_gates_adjoint", [logits, grad], [logits.shape], direction=direction)[0]


@_gates.register_fake
def _(logits: Tensor, direction: str) -> Tensor:
    _check(logits, direction)
    return logits.new_empty(logits.shape)


@_backward.register_fake
def _(grad: Tensor, logits: Tensor, direction: str) -> Tensor:
    return logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, ctx.direction = inputs
    ctx.save_for_backward(logits)


def _pull(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _backward(grad, *ctx.saved_tensors, ctx.direction), None


_gates.register_autograd(_pull, setup_context=_save)
