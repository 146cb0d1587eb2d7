"""selective_scan_fn: the selective scan of Mamba-1 and its adjoint as torch operators, under the signature of mamba_ssm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from treadle.errors import ArgumentError, DeviceError
from treadle.torch import checks
from treadle.torch.kernels import run

_OP = "selective_scan_fn"
#: States that a channel may have, as the Program says.
MOST_STATES = 256


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    validate: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y[b,d,t] = sum_n C[b,g,n,t] h[t] + D[d] u[b,d,t], times silu(z), with h[t] = exp(step A) h[t-1] + step B u.

    u, delta and z are [B,D,L], A [D,N] with N up to 256, B and C [B,G,N,L] or [B,N,L], of u's dtype; D and delta_bias [D].
    step = softplus(delta + delta_bias) where `delta_softplus`, else their sum. D groups of channels share a B and a C, in
    order. A, D and delta_bias are used in float32, as are states. The last state [B,D,N] is float32; unlike mamba_ssm's, it
    passes a gradient, and a scan may begin from an `initial_state`. A is at most 0: on the CPU, and anywhere with `validate`,
    an ArgumentError says where it is not.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    if validate and bool((A > 0).any()):
        raise ArgumentError(f"{_OP}: A", given=float(A.max()), expected="at most 0 everywhere: exp(step A) is a decay")
    batch, d, length = u.shape
    B, C = (t[:, None] if t.dim() == 3 else t for t in (B, C))
    groups = B.shape[1]

    def rows(t: Tensor) -> Tensor:
        return t.reshape(batch, groups, -1, length)

    def wide(t: Tensor | None) -> Tensor:
        return (u.new_zeros(d, dtype=torch.float32) if t is None else t.float()).reshape(groups, -1)

    a = A.float().reshape(groups, -1, A.shape[1])
    initial = u.new_zeros(batch, d, A.shape[1], dtype=torch.float32) if initial_state is None else initial_state.float()
    initial = initial.reshape(batch, *a.shape)
    gate = None if z is None else rows(z)
    y, last = _scan(rows(u), rows(delta), a, B, C, wide(D), gate, wide(delta_bias), initial, delta_softplus)
    y = y.reshape(batch, d, length)
    return (y, last.reshape(batch, d, -1)) if return_last_state else y


def _check(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor | None,
    initial: Tensor | None,
) -> None:  # fmt: skip
    for name, t in {"B": B, "C": C}.items():
        if t.dim() == 2:
            raise ArgumentError(
                f"{_OP}: axes of {name}", given=list(t.shape), expected="[B,G,N,L] or [B,N,L]",
                hint=f"A constant {name} [D,N] is a group for each channel: {name}[None, :, :, None].expand(B, D, N, L).",
            )  # fmt: skip
        if t.is_complex():
            raise ArgumentError(f"{_OP}: dtype of {name}", given=str(t.dtype), expected="real: complex states are not made")
    checks.tensors(_OP, {"u": u, "delta": delta, "B": B, "C": C, "z": z})
    b, d, length = checks.rank(_OP, "u", u, "BDL")
    _, n = checks.rank(_OP, "A", A, "DN")
    if not 1 <= n <= MOST_STATES:
        raise ArgumentError(f"{_OP}: N, the states of a channel", given=n, expected=f"1 to {MOST_STATES}")
    for name, own in {"delta": delta, "z": z}.items():
        if own is not None:
            checks.shape(_OP, name, own, (b, d, length), "B,D,L")
    checks.shape(_OP, "A", A, (d, n), "D,N")
    g = 1 if B.dim() == 3 else checks.rank(_OP, "B", B, "BGNL")[1]
    if g < 1 or d % g:
        raise ArgumentError(f"{_OP}: G, the groups of B", given=g, expected=f"a divisor of D = {d}")
    for name, t in {"B": B, "C": C}.items():
        shape = (b, n, length) if B.dim() == 3 else (b, g, n, length)
        checks.shape(_OP, name, t, shape, "B,N,L" if B.dim() == 3 else "B,G,N,L")
    for name, own in {"D": D, "delta_bias": bias}.items():
        if own is not None:
            checks.shape(_OP, name, own, (d,), "D")
    if initial is not None:
        checks.shape(_OP, "initial_state", initial, (b, d, n), "B,D,N")
    for name, own in {"A": A, "D": D, "delta_bias": bias, "initial_state": initial}.items():
        if own is None:
            continue
        if own.dtype not in (u.dtype, torch.float32):
            raise ArgumentError(f"{_OP}: dtype of {name}", given=str(own.dtype), expected=f"torch.float32 or {u.dtype}, as of u")
        if own.device != u.device:
            raise DeviceError(f"{_OP}: device of {name}", given=str(own.device), expected=f"{u.device}, as of u")


def _attrs(A: Tensor, z: Tensor | None, softplus: bool) -> dict[str, Any]:
    return {"state": A.shape[-1], "softplus": softplus, "gate": z is not None}


@torch.library.custom_op("treadle::selective_scan", mutates_args=())
def _scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, bias: Tensor, initial: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """In the Program's terms: channels by group. y and the last states."""
    if not u.numel():
        return torch.empty_like(u, memory_format=torch.contiguous_format), initial.clone()
    tensors = [t for t in (u, delta, A, B, C, D, z, bias, initial) if t is not None]
    y, last = run("scan.selective_scan", tensors, [u.shape, initial.shape], **_attrs(A, z, softplus))
    return y, last


@torch.library.custom_op("treadle::selective_scan_backward", mutates_args=())
def _backward(
    dy: Tensor, dlast: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None,
    bias: Tensor, initial: Tensor, softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of u, delta, A, B, C, D, z (without elements where there is no z), bias, initial."""
    if not u.numel():
        du, ddelta, dA, dB, dC, dD, dbias = (torch.zeros_like(t) for t in (u, delta, A, B, C, D, bias))
        return du, ddelta, dA, dB, dC, dD, _like(z, u), dbias, dlast.clone()
    tensors = [t for t in (dy, dlast, u, delta, A, B, C, D, z, bias, initial) if t is not None]
    found = run("scan.selective_scan_adjoint", tensors, [()] * (8 + (z is not None)), **_attrs(A, z, softplus))
    du, ddelta, dA, dB, dC, dD, *dz, dbias, dinitial = found
    dB, dC = (t.sum(2).to(u.dtype) for t in (dB, dC))
    return du, ddelta, dA.sum(0), dB, dC, dD.sum(0), dz[0] if dz else _like(z, u), dbias.sum(0), dinitial


def _like(z: Tensor | None, u: Tensor) -> Tensor:
    return u.new_empty(0) if z is None else u.new_empty(z.shape)


@_scan.register_fake
def _(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, bias: Tensor, initial: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return u.new_empty(u.shape), initial.new_empty(initial.shape)


@_backward.register_fake
def _(
    dy: Tensor, dlast: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None,
    bias: Tensor, initial: Tensor, softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    du, ddelta, dA, dB, dC, dD, dbias, dinitial = (t.new_empty(t.shape) for t in (u, delta, A, B, C, D, bias, initial))
    return du, ddelta, dA, dB, dC, dD, _like(z, u), dbias, dinitial


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.softplus = inputs
    ctx.save_for_backward(*tensors)


def _pull(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
    *found, dz, dbias, dinitial = _backward(dy, dlast, *ctx.saved_tensors, ctx.softplus)
    return *found, (None if ctx.saved_tensors[6] is None else dz), dbias, dinitial, None


_scan.register_autograd(_pull, setup_context=_save)
