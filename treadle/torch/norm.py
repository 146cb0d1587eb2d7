"""rms_norm_fn and rmsnorm_fn: the RMS norms and their adjoints as torch operators, under the signatures of mamba_ssm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.errors import ArgumentError, DeviceError
from treadle.torch import checks
from treadle.torch.kernels import run

#: Rows whose weight gradients the kernels add up; torch adds up the parts.
_BLOCK = 16


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    zero_centered_weight: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """RMS norm over the last axis of x, or of x + residual: u / sqrt(mean u^2 + eps) * weight.

    With `prenorm` also returns the sum (x itself without a residual), in the residual's dtype: that of x, or float32, which
    `residual_in_fp32` asks for where there is no residual yet. weight is of x's dtype or float32. Statistics are float32.
    A bias, dropout, a second stream and zero-centred weights are refused.
    """
    for name, value in {"bias": bias, "x1": x1, "weight1": weight1, "bias1": bias1, "rowscale": rowscale}.items():
        if value is not None:
            raise ArgumentError(f"rms_norm_fn: {name}", given="a tensor", expected="None: the kernels have no such operand")
    if dropout_p or zero_centered_weight:
        raise ArgumentError(
            "rms_norm_fn", given=f"dropout_p={dropout_p}, zero_centered_weight={zero_centered_weight}", expected="neither"
        )
    if residual is None:
        _operands("rms_norm_fn", x, weight)
        y = _rms_norm(_rows(x), weight, float(eps)).view(x.shape)
        return (y, x.float() if residual_in_fp32 else x) if prenorm else y
    _operands("rms_norm_fn", x, weight)
    checks.shape("rms_norm_fn", "residual", residual, x.shape, "as x")
    _beside("rms_norm_fn", "residual", residual, x)
    y, total = _add_rms_norm(_rows(x), _rows(residual), weight, float(eps))
    return (y.view(x.shape), total.view(x.shape)) if prenorm else y.view(x.shape)


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    """Gated RMS norm over the last axis, in groups of `group_size`: norm(x) silu(z), or norm(x silu(z)), times weight.

    Without z it is `rms_norm_fn`, in one group. weight is of x's dtype or float32.
    """
    if bias is not None:
        raise ArgumentError("rmsnorm_fn: bias", given="a tensor", expected="None: the kernels have no such operand")
    width = x.shape[-1]
    size = group_size or width
    if width % size:
        raise ArgumentError("rmsnorm_fn: group_size", given=size, expected=f"a divisor of the {width} features of x")
    if z is None:
        if size != width:
            raise ArgumentError("rmsnorm_fn: group_size without z", given=size, expected=f"{width}: groups come with a gate")
        found = rms_norm_fn(x, weight, eps=eps)
        assert isinstance(found, Tensor)
        return found
    _operands("rmsnorm_fn", x, weight)
    checks.tensors("rmsnorm_fn", {"x": x, "z": z})
    checks.shape("rmsnorm_fn", "z", z, x.shape, "as x")
    groups = (-1, width // size, size)
    y = _gated(x.reshape(groups), z.reshape(groups), weight.reshape(groups[1:]), float(eps), bool(norm_before_gate))
    return y.view(x.shape)


def _operands(op: str, x: Tensor, weight: Tensor) -> None:
    checks.tensors(op, {"x": x})
    if x.dim() == 0 or not x.shape[-1]:
        raise ArgumentError(f"{op}: x", given=list(x.shape), expected="rows of at least one feature, along the last axis")
    checks.shape(op, "weight", weight, x.shape[-1:], "features of x")
    _beside(op, "weight", weight, x)


def _beside(op: str, name: str, t: Tensor, x: Tensor) -> None:
    """An operand that may be float32 where x is not."""
    if t.dtype not in (x.dtype, torch.float32):
        raise ArgumentError(f"{op}: dtype of {name}", given=str(t.dtype), expected=f"{x.dtype}, as of x, or torch.float32")
    if t.device != x.device:
        raise DeviceError(f"{op}: device of {name}", given=str(t.device), expected=f"{x.device}, as of x")


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _kind(t: Tensor, x: Tensor) -> str:
    """The value of an attribute that says whether an operand is float32 beside x."""
    return "same" if t.dtype == x.dtype else "float32"


def _run(program: str, tensors: Sequence[Tensor], like: Sequence[Tensor], **attrs: Any) -> list[Tensor]:
    """A kernel's results; those of no rows are made here. `like` has a tensor of each result's shape and dtype."""
    if not tensors[0].numel():
        return [torch.zeros_like(t) for t in like]
    return run(program, tensors, [t.shape for t in like], **attrs)


def _gradients(
    program: str, tensors: Sequence[Tensor], rows: Sequence[Tensor], weight: Tensor, attrs: Mapping[str, Any]
) -> list[Tensor]:
    """The gradients of rows, and that of weight, its parts added up."""
    first, *along = tensors[0].shape
    if not tensors[0].numel():
        return [torch.zeros_like(t) for t in (*rows, weight)]
    *found, parts = run(program, tensors, [*(t.shape for t in rows), (-(-first // _BLOCK), *along)], **attrs)
    return [*found, parts.sum(0).to(weight.dtype)]


@torch.library.custom_op("treadle::rms_norm", mutates_args=())
def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _run("norm.rms_norm", [x, weight], [x], eps=eps, weight=_kind(weight, x))[0]


@torch.library.custom_op("treadle::rms_norm_backward", mutates_args=())
def _rms_norm_backward(dy: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    attrs = {"eps": eps, "weight": _kind(weight, x)}
    dx, dweight = _gradients("norm.rms_norm_adjoint", [dy, x, weight], [x], weight, attrs)
    return dx, dweight


@torch.library.custom_op("treadle::add_rms_norm", mutates_args=())
def _add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    y, total = _run(
        "norm.add_rms_norm", [x, residual, weight], [x, residual], eps=eps, weight=_kind(weight, x), residual=_kind(residual, x)
    )
    return y, total


@torch.library.custom_op("treadle::add_rms_norm_backward", mutates_args=())
def _add_rms_norm_backward(dy: Tensor, dres: Tensor, total: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    tensors = [dy, dres, total, weight]
    attrs = {"eps": eps, "weight": _kind(weight, dy), "residual": _kind(total, dy)}
    dsum, dweight = _gradients("norm.add_rms_norm_adjoint", tensors, [total], weight, attrs)
    return dsum, dweight


@torch.library.custom_op("treadle::rms_norm_gated", mutates_args=())
def _gated(x: Tensor, z: Tensor, weight: Tensor, eps: float, norm_before_gate: bool) -> Tensor:
    attrs = {"weight": _kind(weight, x), "norm_before_gate": norm_before_gate}
    return _run("norm.rms_norm_gated", [x, z, weight], [x], eps=eps, **attrs)[0]


@torch.library.custom_op("treadle::rms_norm_gated_backward", mutates_args=())
def _gated_backward(
    dy: Tensor, x: Tensor, z: Tensor, weight: Tensor, eps: float, norm_before_gate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    attrs = {"eps": eps, "weight": _kind(weight, x), "norm_before_gate": norm_before_gate}
    dx, dz, dweight = _gradients("norm.rms_norm_gated_adjoint", [dy, x, z, weight], [x, z], weight, attrs)
    return dx, dz, dweight


@_rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_rms_norm_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(weight)


@_add_rms_norm.register_fake
def _(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, residual))  # type: ignore[return-value]


@_add_rms_norm_backward.register_fake
def _(dy: Tensor, dres: Tensor, total: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(total), torch.empty_like(weight)


@_gated.register_fake
def _(x: Tensor, z: Tensor, weight: Tensor, eps: float, norm_before_gate: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_gated_backward.register_fake
def _(dy: Tensor, x: Tensor, z: Tensor, weight: Tensor, eps: float, norm_before_gate: bool) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, z, weight))  # type: ignore[return-value]


def _save_plain(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _pull_plain(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return *_rms_norm_backward(dy, *ctx.saved_tensors, ctx.eps), None


def _save_add(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, weight, ctx.eps = inputs
    ctx.dtype = x.dtype
    ctx.save_for_backward(output[1], weight)


def _pull_add(ctx: Any, dy: Tensor, dres: Tensor) -> tuple[Tensor | None, ...]:
    dsum, dweight = _add_rms_norm_backward(dy, dres, *ctx.saved_tensors, ctx.eps)
    return dsum.to(ctx.dtype), dsum, dweight, None


def _save_gated(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps, ctx.norm_before_gate = inputs
    ctx.save_for_backward(*tensors)


def _pull_gated(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return *_gated_backward(dy, *ctx.saved_tensors, ctx.eps, ctx.norm_before_gate), None, None


_rms_norm.register_autograd(_pull_plain, setup_context=_save_plain)
_add_rms_norm.register_autograd(_pull_add, setup_context=_save_add)
_gated.register_autograd(_pull_gated, setup_context=_save_gated)
