"""mamba_chunk_scan_combined: the chunked scan of Mamba-2 and its adjoint as torch operators, under the signature of mamba_ssm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from treadle.errors import ArgumentError, DeviceError
from treadle.torch import checks
from treadle.torch.kernels import run

_OP = "mamba_chunk_scan_combined"
#: The longest chunk that the Program has, in steps of 16.
MOST_CHUNK = 512


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    *,
    validate: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """h[t] = exp(step A) h[t-1] + (step x[t]) B[t], y[t] = sum_n C[t] h[t] + D x[t], times silu(z[t]).

    x and z are [B,L,H,P], dt [B,L,H], A [H], B and C [B,L,G,N], D [H] or [H,P], dt_bias [H]; heads share a group's B and C in
    order. step = softplus(dt + dt_bias) with `dt_softplus`, else their sum, clipped to `dt_limit`. States are float32, and
    those returned too; they pass gradients.

    `cu_seqlens` [S+1] says where in a batch of one each sequence begins, the last value where all end: initial and final
    states are then [S,H,P,N], one for each. `seq_idx` [B,L] says to which sequence a token belongs; `initial_states` [B,H,P,N]
    belong to the first of a row, final states are of the last. Chunks of `chunk_size`, a multiple of 16 up to 512, begin anew
    with each sequence: what is packed beside a sequence does not change a bit of its result. Both are read on the host.

    A is at most 0: on the CPU, and anywhere with `validate`, an ArgumentError says where it is not.
    """
    _check(x, dt, A, B, C, chunk_size, D, z, dt_bias, dt_limit)
    batch, length, heads, p = x.shape
    g, n = B.shape[2:]
    if (validate or x.device.type == "cpu") and not torch.compiler.is_compiling() and bool((A > 0).any()):
        raise ArgumentError(f"{_OP}: A", given=float(A.max()), expected="at most 0 everywhere: exp(step A) is a decay")
    if return_varlen_states and cu_seqlens is None:
        raise ArgumentError(f"{_OP}: return_varlen_states", given="no cu_seqlens", expected="the sequences to return states of")
    starts, firsts = _sequences(batch, length, seq_idx, cu_seqlens)
    count = len(starts) - 1
    rows = count if cu_seqlens is not None else batch
    initial = x.new_zeros(rows, heads, p, n, dtype=torch.float32) if initial_states is None else initial_states.float()
    axes = "S,H,P,N" if cu_seqlens is not None else "B,H,P,N"
    checks.shape(_OP, "initial_states", initial, (rows, heads, p, n), axes)
    if firsts is not None:
        initial = initial.new_zeros(count, heads, p, n).index_copy(0, firsts[:-1].to(x.device), initial)

    def wide(t: Tensor | None, *shape: int) -> Tensor:
        return (
            (x.new_zeros(1, dtype=torch.float32) if t is None else t.float()).expand(shape).reshape(g, heads // g, *shape[1:])
        )

    def by_token(t: Tensor, *shape: int) -> Tensor:
        return t.reshape(batch * length, g, *shape)

    skip = None if D is None else wide(D if D.dim() == 2 else D[:, None], heads, p)
    tables = [t.to(x.device) for t in _tables(starts, chunk_size)]
    y, final = _scan(
        by_token(x, heads // g, p), by_token(dt.float(), heads // g), wide(A, heads), by_token(B, n), by_token(C, n), skip,
        None if z is None else by_token(z, heads // g, p), wide(dt_bias, heads), initial.reshape(count, g, heads // g, p, n), *tables,
        chunk_size, dt_softplus, float(dt_limit[0]), float(dt_limit[1]),
    )  # fmt: skip
    y, final = y.reshape(x.shape), final.reshape(count, heads, p, n)
    last = final if firsts is None else final[firsts[1:].to(x.device) - 1]
    wanted = [t for t, asked in ((last, return_final_states), (final, return_varlen_states)) if asked]
    return (y, *wanted) if wanted else y


def _check(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int, D: Tensor | None, z: Tensor | None,
    bias: Tensor | None, limit: tuple[float, float],
) -> None:  # fmt: skip
    checks.tensors(_OP, {"x": x, "B": B, "C": C, "z": z})
    b, length, h, p = checks.rank(_OP, "x", x, "BLHP")
    _, _, g, n = checks.rank(_OP, "B", B, "BLGN")
    if g < 1 or h % g:
        raise ArgumentError(f"{_OP}: G, the groups of B", given=g, expected=f"a divisor of H = {h}")
    checks.shape(_OP, "dt", dt, (b, length, h), "B,L,H")
    checks.shape(_OP, "A", A, (h,), "H")
    for name, t in {"B": B, "C": C}.items():
        checks.shape(_OP, name, t, (b, length, g, n), "B,L,G,N")
    if z is not None:
        checks.shape(_OP, "z", z, x.shape, "B,L,H,P")
    if D is not None:
        checks.shape(_OP, "D", D, (h,) if D.dim() == 1 else (h, p), "H or H,P")
    if bias is not None:
        checks.shape(_OP, "dt_bias", bias, (h,), "H")
    for name, own in {"dt": dt, "A": A, "D": D, "dt_bias": bias}.items():
        if own is not None and own.dtype not in (x.dtype, torch.float32):
            raise ArgumentError(f"{_OP}: dtype of {name}", given=str(own.dtype), expected=f"torch.float32 or {x.dtype}, as of x")
        if own is not None and own.device != x.device:
            raise DeviceError(f"{_OP}: device of {name}", given=str(own.device), expected=f"{x.device}, as of x")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk % 16 or not 16 <= chunk <= MOST_CHUNK:
        raise ArgumentError(f"{_OP}: chunk_size", given=repr(chunk), expected=f"a multiple of 16 from 16 to {MOST_CHUNK}")
    if not 0.0 <= limit[0] <= limit[1]:
        raise ArgumentError(f"{_OP}: dt_limit", given=limit, expected="0 <= least <= most")


def _sequences(batch: int, length: int, seq_idx: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Where each sequence begins among all tokens, and where all end; which sequence is each row's first, under seq_idx."""
    if seq_idx is not None:
        checks.shape(_OP, "seq_idx", seq_idx, (batch, length), "B,L")
        if seq_idx.dtype not in (torch.int32, torch.int64):
            raise ArgumentError(f"{_OP}: dtype of seq_idx", given=str(seq_idx.dtype), expected="torch.int32")
    if cu_seqlens is not None:
        starts = _checked(cu_seqlens, batch, length)
        if seq_idx is not None:
            changes = (seq_idx[0].diff() != 0).cpu().nonzero()[:, 0] + 1
            if not torch.isin(changes, starts).all():
                raise ArgumentError(
                    f"{_OP}: seq_idx", given="a change within a sequence", expected="the sequences of cu_seqlens"
                )
        return starts, None
    if seq_idx is None or not length:
        return torch.arange(batch + 1) * length, None
    begins = torch.cat([torch.ones(batch, 1, dtype=torch.bool), seq_idx.cpu().diff() != 0], 1)
    firsts = torch.cat([torch.zeros(1, dtype=torch.int64), begins.sum(1).cumsum(0)])
    return torch.cat([begins.flatten().nonzero()[:, 0], torch.tensor([batch * length])]), firsts


def _checked(cu_seqlens: Tensor, batch: int, length: int) -> Tensor:
    if batch != 1:
        raise ArgumentError(f"{_OP}: batch of packed sequences", given=batch, expected="1, as cu_seqlens is given")
    if cu_seqlens.dim() != 1 or len(cu_seqlens) < 2 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        given = f"{list(cu_seqlens.shape)}, {cu_seqlens.dtype}"
        raise ArgumentError(f"{_OP}: cu_seqlens", given=given, expected="[S+1] of torch.int32, S at least 1")
    starts = cu_seqlens.cpu().long()
    if int(starts[0]) != 0 or int(starts[-1]) != length or bool((starts.diff() < 0).any()):
        raise ArgumentError(
            f"{_OP}: cu_seqlens",
            given=starts.tolist(),
            expected=f"values from 0 to {length}, the tokens, none less than the one before",
        )
    return starts


def _tables(starts: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The chunk table of ir/ops/scan/mamba_chunk_scan_form.py: first, seq, chunks, chunk."""
    sequences, tokens = len(starts) - 1, int(starts[-1])
    lengths = starts.diff()
    counts = (lengths + (chunk - 1)) // chunk
    chunks = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    spare = tokens // chunk + sequences - int(chunks[-1])
    seq = torch.repeat_interleave(torch.arange(sequences), counts)
    first = starts[seq] + (torch.arange(len(seq)) - chunks[seq]) * chunk
    owner = torch.repeat_interleave(torch.arange(sequences), lengths)
    where = chunks[owner] + (torch.arange(tokens) - starts[owner]) // chunk
    seq = torch.cat([seq, torch.full((spare,), sequences - 1)])
    first = torch.cat([first, torch.full((spare + 1,), tokens)])
    chunks[-1] += spare
    return first.int(), seq.int(), chunks.int(), where.int()


def _attrs(D: Tensor | None, z: Tensor | None, chunk: int, softplus: bool, least: float, most: float) -> dict[str, Any]:
    limits = {"dt_min": least, "dt_max": most}
    return {"chunk": chunk, "softplus": softplus, "skip": D is not None, "gate": z is not None, **limits}


@torch.library.custom_op("treadle::mamba_chunk_scan", mutates_args=())
def _scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor, initial: Tensor,
    first: Tensor, seq: Tensor, chunks: Tensor, where: Tensor, chunk: int, softplus: bool, least: float, most: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """In the Program's terms: tokens one after another, heads by group. y and the final states."""
    if not x.numel():
        return torch.empty_like(x, memory_format=torch.contiguous_format), initial.clone()
    tensors = [t for t in (x, dt, A, B, C, D, z, bias, initial, first, seq, chunks, where) if t is not None]
    y, final = run("scan.mamba_chunk_scan", tensors, [x.shape, initial.shape], **_attrs(D, z, chunk, softplus, least, most))
    return y, final


@torch.library.custom_op("treadle::mamba_chunk_scan_backward", mutates_args=())
def _backward(
    dy: Tensor, dfinal: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    bias: Tensor, initial: Tensor, first: Tensor, seq: Tensor, chunks: Tensor, where: Tensor, chunk: int, softplus: bool,
    least: float, most: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, dt, A, B, C, D, z (without elements where there is no D, no z), bias, initial."""
    if not x.numel():
        dx, ddt, dA, dB, dC, dbias = (torch.zeros_like(t) for t in (x, dt, A, B, C, bias))
        return dx, ddt, dA, dB, dC, _like(D, A, True), _like(z, x, True), dbias, dfinal.clone()
    tensors = [t for t in (dy, dfinal, x, dt, A, B, C, D, z, bias, initial, first, seq, chunks, where) if t is not None]
    shapes = [()] * (6 + (D is not None) + (z is not None))
    found = run("scan.mamba_chunk_scan_adjoint", tensors, shapes, **_attrs(D, z, chunk, softplus, least, most))
    dx, dz = found.pop(0), found.pop(0) if z is not None else _like(None, x)
    ddt, dA, dB, dC, *dD, dinitial = found
    dB, dC = (t.sum(2).to(x.dtype) for t in (dB, dC))
    return dx, ddt, dA.sum(0), dB, dC, dD[0].sum(0) if dD else _like(None, A), dz, ddt.sum(0), dinitial


def _like(t: Tensor | None, other: Tensor, zero: bool = False) -> Tensor:
    if t is None:
        return other.new_empty(0)
    return torch.zeros_like(t) if zero else t.new_empty(t.shape)


@_scan.register_fake
def _(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor, initial: Tensor,
    first: Tensor, seq: Tensor, chunks: Tensor, where: Tensor, chunk: int, softplus: bool, least: float, most: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return x.new_empty(x.shape), initial.new_empty(initial.shape)


@_backward.register_fake
def _(
    dy: Tensor, dfinal: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    bias: Tensor, initial: Tensor, first: Tensor, seq: Tensor, chunks: Tensor, where: Tensor, chunk: int, softplus: bool,
    least: float, most: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dx, ddt, dA, dB, dC, dbias, dinitial = (t.new_empty(t.shape) for t in (x, dt, A, B, C, bias, initial))
    return dx, ddt, dA, dB, dC, _like(D, A), _like(z, x), dbias, dinitial


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, chunk, softplus, least, most = inputs
    ctx.choices = chunk, softplus, least, most
    ctx.save_for_backward(*tensors)


def _pull(ctx: Any, dy: Tensor, dfinal: Tensor) -> tuple[Tensor | None, ...]:
    D, z = ctx.saved_tensors[5:7]
    *found, dD, dz, dbias, dinitial = _backward(dy, dfinal, *ctx.saved_tensors, *ctx.choices)
    return *found, None if D is None else dD, None if z is None else dz, dbias, dinitial, *[None] * 8


_scan.register_autograd(_pull, setup_context=_save)
