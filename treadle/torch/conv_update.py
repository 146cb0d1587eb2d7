"""causal_conv1d_update: the convolution's decode step as a torch operator, under the signature of causal_conv1d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from treadle.errors import ArgumentError, DeviceError, UnknownNameError
from treadle.torch import checks, slots
from treadle.torch.kernels import kernel

_OP = "causal_conv1d_update"


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
    *,
    pad_slot_id: int = slots.PAD,
    validate: bool = False,
) -> Tensor:
    """Convolve x [B,D] or [B,D,L] on from `conv_state` [slots,D,W], W >= width - 1, which is updated where it lies.

    The state holds the last W steps, the newest last; with `cache_seqlens` [B], the steps that went before, it is a ring, and
    step t stands at t modulo W. `conv_state_indices` [B] says which state a row has, `pad_slot_id` none: its result is 0. The
    state is contiguous in time or in channels, of x's dtype; weight [D,width] and bias are of x's dtype or float32.

    A slot out of range, or one for two rows, is an ArgumentError on the CPU and, on a GPU, under `validate`, which waits for
    it; otherwise the first is skipped there and the second a race.
    """
    layout = _check(x, conv_state, weight, bias, activation)
    rows = x[..., None] if x.dim() == 2 else x
    table = slots.table(_OP, "conv_state_indices", conv_state_indices, len(x), x.device, pad_slot_id)
    if table is None and len(conv_state) != len(x):
        raise ArgumentError(f"{_OP}: slots of conv_state", given=len(conv_state), expected=f"{len(x)}, one for each row of x")
    if cache_seqlens is not None:
        checks.shape(_OP, "cache_seqlens", cache_seqlens, (len(x),), "B")
        slots.integers(_OP, "cache_seqlens", cache_seqlens, x.device)
        cache_seqlens = cache_seqlens.int()
    if validate:
        _validate(table, len(conv_state), cache_seqlens)
    turned = (lambda t: t.transpose(1, 2)) if layout == "bld" else (lambda t: t)
    offset = x.new_zeros(x.shape[1], dtype=torch.float32) if bias is None else bias.float()
    kind = "none" if activation is None else "silu"
    taps = weight.float().t().contiguous()
    run = _run if slots.straight(x, conv_state, weight, bias) else _update
    y = turned(run(turned(rows).contiguous(), turned(conv_state), taps, offset, cache_seqlens, table, layout, kind))
    return y[..., 0] if x.dim() == 2 else y


def _check(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> str:
    """Says in which layout the state lies."""
    if activation not in (None, "silu", "swish"):
        raise UnknownNameError.unknown("activation", str(activation), ("None", "silu", "swish"), where=_OP)
    checks.tensors(_OP, {"x": x, "conv_state": state})
    if x.dim() not in (2, 3):
        raise ArgumentError(f"{_OP}: axes of x", given=list(x.shape), expected="[B,D] or [B,D,L]")
    d = x.shape[1]
    _, width = checks.rank(_OP, "weight", weight, "DW")
    if not 2 <= width <= 4:
        raise ArgumentError(f"{_OP}: width of weight", given=width, expected="2, 3 or 4 taps")
    checks.shape(_OP, "weight", weight, (d, width), "D,width")
    if bias is not None:
        checks.shape(_OP, "bias", bias, (d,), "D")
    for name, t in {"weight": weight, "bias": bias}.items():
        if t is not None and t.dtype not in (x.dtype, torch.float32):
            raise ArgumentError(f"{_OP}: dtype of {name}", given=str(t.dtype), expected=f"{x.dtype}, as of x, or torch.float32")
        if t is not None and t.device != x.device:
            raise DeviceError(f"{_OP}: device of {name}", given=str(t.device), expected=f"{x.device}, as of x")
    checks.rank(_OP, "conv_state", state, "SDW")
    if state.shape[1] != d or state.shape[2] < width - 1:
        raise ArgumentError(
            f"{_OP}: shape of conv_state", given=list(state.shape), expected=f"[slots,{d},W] with W at least {width - 1}"
        )
    slots.updated(_OP, "conv_state", state)
    if state.is_contiguous():
        return "bdl"
    if state.transpose(1, 2).is_contiguous():
        return "bld"
    raise ArgumentError(
        f"{_OP}: conv_state is updated in place", given=f"strides {list(state.stride())} for shape {list(state.shape)}",
        expected="contiguous, or contiguous once [slots,D,W] is transposed to [slots,W,D]",
    )  # fmt: skip


def _validate(table: Tensor | None, count: int, position: Tensor | None) -> None:
    slots.validate(_OP, "conv_state_indices", table, count)
    if position is not None and bool((position < 0).any()):
        raise ArgumentError(f"{_OP}: cache_seqlens", given=int(position.min()), expected="0 or more")


def _run(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor, position: Tensor | None, table: Tensor | None, layout: str,
    activation: str,
) -> Tensor:  # fmt: skip
    """In the Program's terms: x and state as `layout` says, weight [width,D]."""
    if not x.numel():
        return torch.empty_like(x)
    attrs: dict[str, Any] = {"layout": layout, "width": weight.shape[0], "activation": activation}
    made = kernel("scan.causal_conv1d_update", x.device, x.dtype, ring=position is not None, slots=table is not None, **attrs)
    operands = [t for t in (weight, bias, position, table) if t is not None]
    try:
        y = made(x, state, *(t.contiguous() for t in operands))
        torch.autograd.graph.increment_version(state)
        return y
    except ArgumentError:
        _validate(table, len(state), position)  # says which value it was
        raise


_update = torch.library.custom_op("treadle::causal_conv1d_update", _run, mutates_args=("state",))


@_update.register_fake
def _(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor, position: Tensor | None, table: Tensor | None, layout: str,
    activation: str,
) -> Tensor:  # fmt: skip
    return torch.empty_like(x)
