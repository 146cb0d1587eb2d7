"""selective_state_update: the decode step of a state-space model as a torch operator, under the signature of mamba_ssm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from treadle.errors import ArgumentError, DeviceError
from treadle.torch import checks, slots
from treadle.torch.kernels import kernel

_OP = "selective_state_update"


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
    *,
    pad_slot_id: int = slots.PAD,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    rounding: tuple[Tensor, Tensor] | None = None,
    return_states: bool = False,
    validate: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """h = exp(delta A) h + delta x B, y = sum of C h over the state + D x, times silu(z); delta = softplus(dt + dt_bias).

    `state` [slots,H,P,N] is updated where it lies; x, dt, z [batch,H,P], B, C [batch,G,N], A [H,P,N], D, dt_bias [H,P]; or all
    without the axes H and G. With an axis of tokens after that of the batch (x [batch,T,H,P], B [batch,T,G,N]) the tokens
    follow one another, and `return_states` returns the state after each, [batch,T,H,P,N], to roll back to. Where A, dt, D and
    dt_bias are expanded over P, and A over N (strides 0), a head has one decay, as in Mamba-2.

    x, B, C and z are of one dtype; A, dt, D and dt_bias are read as float32. The state is float32, float16 or bfloat16, and
    rounded to that after each token; float16 stochastically if `rounding` gives a seed and an offset, int64 tensors of one
    element: element e of the state gets bits of Philox4x32-10 with that key and counter (e // 8, offset + token).

    `state_batch_indices` [batch] says which state a row has, `pad_slot_id` none: its y is 0. A slot out of range, one for two
    rows, or A > 0 is an ArgumentError on the CPU and, on a GPU, under `validate`, which waits for it.
    """
    heads = state.dim() == 4
    tokens = x.dim() == state.dim()
    _check(state, x, dt, A, B, C, D, z, dt_bias, heads, tokens, rounding)
    p, n = state.shape[-2:]
    h = state.shape[1] if heads else 1
    batch, steps = x.shape[0], x.shape[1] if tokens else 1
    groups = B.shape[-2] if heads else 1
    table = slots.table(_OP, "state_batch_indices", state_batch_indices, batch, x.device, pad_slot_id)
    if table is None and len(state) != batch:
        raise ArgumentError(f"{_OP}: slots of state", given=len(state), expected=f"{batch}, one for each row of x")
    if validate:
        _validate(table, len(state), A)

    tied = _tied(A, 2) and all(t is None or _tied(t, 1) for t in (dt, D, dt_bias))
    split = (groups, h // groups)
    own = split if tied else (*split, p)

    def by_head(t: Tensor | None) -> Tensor:
        """A float32 operand of a head or a channel, whatever stands before."""
        if t is None:
            return x.new_zeros(own, dtype=torch.float32)
        lead = (batch, steps) if t is dt else ()
        return (t[..., 0] if tied else t).float().reshape(*lead, *own)

    rate = (A[..., 0, 0] if tied else A).float().reshape(*split, *(() if tied else (p, n)))
    channels = (batch, steps, *split, p)
    seed, offset = (None, None) if rounding is None else rounding
    operands = (
        state.view(len(state), *split, p, n), x.reshape(channels), by_head(dt), rate,
        B.reshape(batch, steps, groups, n), C.reshape(batch, steps, groups, n), by_head(D),
        None if z is None else z.reshape(channels), by_head(dt_bias), table, seed, offset, bool(dt_softplus),
        float(dt_limit[0]), float(dt_limit[1]), return_states,
    )  # fmt: skip
    run = _run if slots.straight(state, x, dt, A, B, C, D, z, dt_bias) else _update
    y, states = run(*operands)
    y = y.view(x.shape)
    return (y, states.view(batch, *((steps,) if tokens else ()), *state.shape[1:])) if return_states else y


def _tied(t: Tensor, axes: int) -> bool:
    return all(t.stride(-a) == 0 or t.shape[-a] == 1 for a in range(1, axes + 1))


def _check(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    bias: Tensor | None, heads: bool, tokens: bool, rounding: tuple[Tensor, Tensor] | None,
) -> None:  # fmt: skip
    if state.dim() not in (3, 4) or x.dim() not in (state.dim() - 1, state.dim()):
        raise ArgumentError(
            f"{_OP}: axes of state and x", given=f"{list(state.shape)} and {list(x.shape)}",
            expected="[slots,H,P,N] and [batch,H,P] or [batch,T,H,P], or both without H",
        )  # fmt: skip
    if state.dtype not in checks.DTYPES:
        raise ArgumentError(f"{_OP}: dtype of state", given=str(state.dtype), expected="float32, float16 or bfloat16")
    checks.tensors(_OP, {"x": x, "B": B, "C": C, "z": z})
    if not state.is_contiguous():
        raise ArgumentError(
            f"{_OP}: state is updated in place", given=f"strides {list(state.stride())} for shape {list(state.shape)}",
            expected="a contiguous tensor",
        )  # fmt: skip
    slots.updated(_OP, "state", state)
    _check_rounding(state, rounding)
    own, n = tuple(state.shape[1:-1]), state.shape[-1]
    lead = tuple(x.shape[: 1 + tokens])
    groups: tuple[int, ...] = (B.shape[-2],) if heads and B.dim() > 1 else ()
    letters = "slots,H,P,N" if heads else "slots,P,N"
    for name, t, shape in (
        ("x", x, (*lead, *own)), ("dt", dt, (*lead, *own)), ("z", z, (*lead, *own)), ("A", A, (*own, n)), ("D", D, own),
        ("dt_bias", bias, own), ("B", B, (*lead, *groups, n)), ("C", C, (*lead, *groups, n)),
    ):  # fmt: skip
        if t is None:
            continue
        checks.shape(_OP, name, t, shape, f"as state [{letters}] and x say")
        if t.device != state.device:
            raise DeviceError(f"{_OP}: device of {name}", given=str(t.device), expected=f"{state.device}, as of state")
    if heads and (not groups[0] or own[0] % groups[0]):
        raise ArgumentError(f"{_OP}: groups of B", given=groups[0], expected=f"a divisor of the {own[0]} heads")


def _check_rounding(state: Tensor, rounding: tuple[Tensor, Tensor] | None) -> None:
    if rounding is None:
        return
    if state.dtype != torch.float16:
        raise ArgumentError(f"{_OP}: rounding", given=f"a state of {state.dtype}", expected="torch.float16")
    for name, t in zip(("seed", "offset"), rounding, strict=True):
        if t.dtype != torch.int64 or tuple(t.shape) != (1,) or t.device != state.device:
            raise ArgumentError(
                f"{_OP}: {name} of rounding", given=f"{t.dtype} {list(t.shape)} on {t.device}",
                expected=f"torch.int64 [1] on {state.device}",
            )  # fmt: skip


def _validate(table: Tensor | None, count: int, A: Tensor) -> None:
    slots.validate(_OP, "state_batch_indices", table, count)
    if not bool((A <= 0).all()):
        raise ArgumentError(f"{_OP}: A", given=float(A.max()), expected="0 or less everywhere: what decays")


def _run(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, dt_bias: Tensor,
    table: Tensor | None, seed: Tensor | None, offset: Tensor | None, softplus: bool, dt_min: float, dt_max: float,
    history: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """In the Program's terms; the states after each token are empty without `history`."""
    kept = (*x.shape, state.shape[-1]) if history else (0,)
    if not x.numel() or not state.numel():
        return torch.zeros_like(x, memory_format=torch.contiguous_format), state.new_zeros(kept)
    attrs: dict[str, Any] = {
        "state": str(state.dtype).removeprefix("torch.") + ("" if seed is None else "_stochastic"), "tied": A.dim() == 2,
        "softplus": softplus, "dt_min": dt_min, "dt_max": dt_max, "gate": z is not None, "slots": table is not None,
        "history": history,
    }  # fmt: skip
    made = kernel("scan.selective_state_update", x.device, x.dtype, **attrs)
    operands = [t for t in (x, dt, A, B, C, D, z, dt_bias, table, seed, offset) if t is not None]
    try:
        found = made(state, *(t.contiguous() for t in operands))
        torch.autograd.graph.increment_version(state)
    except ArgumentError:
        _validate(table, len(state), A)  # says which value it was
        raise
    return found if history else (found, state.new_empty(kept))


_update = torch.library.custom_op("treadle::selective_state_update", _run, mutates_args=("state",))


@_update.register_fake
def _(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, dt_bias: Tensor,
    table: Tensor | None, seed: Tensor | None, offset: Tensor | None, softplus: bool, dt_min: float, dt_max: float,
    history: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    kept = (*x.shape, state.shape[-1]) if history else (0,)
    return x.new_empty(x.shape), state.new_empty(kept)
