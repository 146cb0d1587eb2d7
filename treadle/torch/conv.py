"""causal_conv1d_fn: the causal depthwise convolution and its adjoint as torch operators, under the signature of causal_conv1d."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.errors import ArgumentError, DeviceError, UnknownNameError
from treadle.torch import checks
from treadle.torch.kernels import run

_OP = "causal_conv1d_fn"


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """y[b,d,t] = act(bias[d] + sum_k weight[d,k] x[b,d,t-width+1+k]), for x [B,D,L] and weight [D,width], width 2 to 4.

    x may have any strides: where time is contiguous, and where channels are, it is read as it lies, otherwise copied; the
    result lies as x was read. weight and bias are of x's dtype or float32. `initial_states` [B,D,width-1] stand before the
    first step, 0 without them; final states, the last width - 1 steps, are returned, or written to `final_states_out`.
    `seq_idx` [B,L] says to which sequence a step belongs: taps of another count 0; `initial_states` belong to the first's.
    `activation` is None, "silu" or "swish". Sums are float32.
    """
    _check(x, weight, bias, seq_idx, initial_states, activation)
    width = weight.shape[1]
    states = x.new_zeros(*x.shape[:2], width - 1) if initial_states is None else initial_states
    offset = x.new_zeros(x.shape[1], dtype=torch.float32) if bias is None else bias.float()
    layout = "bld" if x.stride(1) == 1 and x.shape[1] > 1 else "bdl"
    turned = (lambda t: t.transpose(1, 2)) if layout == "bld" else (lambda t: t)
    ids = None if seq_idx is None else seq_idx.int()
    kind = "none" if activation is None else "silu"
    y = turned(_conv(turned(x), weight.float().t().contiguous(), offset, turned(states), ids, layout, kind))
    if not return_final_states:
        return y
    final = torch.cat([states, x[..., max(0, x.shape[2] - width + 1) :]], -1)[..., 1 - width :]
    if final_states_out is None:
        return y, final
    checks.shape(_OP, "final_states_out", final_states_out, final.shape, "B,D,width-1")
    return y, final_states_out.copy_(final)


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor | None, states: Tensor | None, activation: str | None
) -> None:
    if activation not in (None, "silu", "swish"):
        raise UnknownNameError.unknown("activation", str(activation), ("None", "silu", "swish"), where=_OP)
    checks.tensors(_OP, {"x": x, "initial_states": states})
    b, d, length = checks.rank(_OP, "x", x, "BDL")
    _, width = checks.rank(_OP, "weight", weight, "DW")
    if not 2 <= width <= 4:
        raise ArgumentError(f"{_OP}: width of weight", given=width, expected="2, 3 or 4 taps")
    checks.shape(_OP, "weight", weight, (d, width), "D,width")
    for name, t in {"weight": weight, "bias": bias}.items():
        if t is not None and t.dtype not in (x.dtype, torch.float32):
            raise ArgumentError(f"{_OP}: dtype of {name}", given=str(t.dtype), expected=f"{x.dtype}, as of x, or torch.float32")
    if bias is not None:
        checks.shape(_OP, "bias", bias, (d,), "D")
    if states is not None:
        checks.shape(_OP, "initial_states", states, (b, d, width - 1), "B,D,width-1")
    if seq_idx is not None:
        checks.shape(_OP, "seq_idx", seq_idx, (b, length), "B,L")
        if seq_idx.dtype not in (torch.int32, torch.int64):
            raise ArgumentError(f"{_OP}: dtype of seq_idx", given=str(seq_idx.dtype), expected="torch.int32")
    for name, t in {"weight": weight, "bias": bias, "seq_idx": seq_idx}.items():
        if t is not None and t.device != x.device:
            raise DeviceError(f"{_OP}: device of {name}", given=str(t.device), expected=f"{x.device}, as of x")


def _attrs(weight: Tensor, seq_idx: Tensor | None, layout: str, activation: str) -> dict[str, Any]:
    return {"layout": layout, "width": weight.shape[0], "activation": activation, "packed": seq_idx is not None}


def _operands(tensors: Sequence[Tensor], seq_idx: Tensor | None) -> list[Tensor]:
    return [*tensors, *([] if seq_idx is None else [seq_idx])]


@torch.library.custom_op("treadle::causal_conv1d", mutates_args=())
def _conv(
    x: Tensor, weight: Tensor, bias: Tensor, initial: Tensor, seq_idx: Tensor | None, layout: str, activation: str
) -> Tensor:
    """In the Program's terms: x and initial as `layout` says, weight [width,D]."""
    if not x.numel():
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    tensors = _operands([x, weight, bias, initial], seq_idx)
    return run("scan.causal_conv1d", tensors, [x.shape], **_attrs(weight, seq_idx, layout, activation))[0]


@torch.library.custom_op("treadle::causal_conv1d_backward", mutates_args=())
def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, initial: Tensor, seq_idx: Tensor | None, layout: str, activation: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not x.numel():
        dx, dweight, dbias, dinitial = (torch.zeros_like(t) for t in (x, weight, bias, initial))
        return dx, dweight, dbias, dinitial
    tensors = _operands([dy, x, weight, bias, initial], seq_idx)
    shapes = [x.shape, initial.shape, (), ()]
    dx, dinitial, weights, biases = run(
        "scan.causal_conv1d_adjoint", tensors, shapes, **_attrs(weight, seq_idx, layout, activation)
    )
    return dx, weights.sum((0, 1)), biases.sum((0, 1)), dinitial


@_conv.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, initial: Tensor, seq_idx: Tensor | None, layout: str, activation: str) -> Tensor:
    return x.new_empty(x.shape)


@_backward.register_fake
def _(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, initial: Tensor, seq_idx: Tensor | None, layout: str, activation: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dweight, dbias, dinitial = (t.new_empty(t.shape) for t in (x, weight, bias, initial))
    return dx, dweight, dbias, dinitial


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.seq_idx, ctx.layout, ctx.activation = inputs
    ctx.save_for_backward(*tensors)


def _pull(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(dy, *ctx.saved_tensors, ctx.seq_idx, ctx.layout, ctx.activation), None, None, None


_conv.register_autograd(_pull, setup_context=_save)
