"""scan.selective_state_update at a Nemotron layer's 64 heads of 64 channels and 128 states, as torch calls it, beside torch.

Two statements in plain torch: that of the definition, whose state is made anew and copied back, and one that multiplies and
adds in place. A call is one of `treadle.torch.selective_state_update`, checks and dispatch included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import treadle.torch as tt
from treadle.bench.copy import Copy
from treadle.bench.report import Column, Report, giga, milliseconds, percent, times
from treadle.bench.timing import interleave, method
from treadle.ir import build

H, P, N, G = 64, 64, 128, 8
BATCHES = (1, 4, 16, 64)
STATES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDS = 5

LAYOUT = (
    Column("state", "state"),
    Column(">batch", "batch"),
    Column(">ms", "seconds", milliseconds),
    Column(">GB/s", "bytes_per_second", giga),
    Column(">of copy", "share_of_copy", percent),
    Column(">torch ms", "torch_seconds", milliseconds),
    Column(">vs torch", "speedup", times),
    Column(">in place ms", "torch_in_place_seconds", milliseconds),
    Column(">vs in place", "speedup_in_place", times),
    Column(">error", "error", "{:.1e}".format),
)


def measure(target: str, progress: Callable[[str], None]) -> Report:
    """Bytes are the compulsory ones of Program.cost: the states of the batch, read and written."""
    rows, facts = [], {}
    for batch in BATCHES:
        operands = _operands(batch)
        candidates: dict[str, Callable[[], object]] = {}
        errors = {}
        for kind in STATES:
            progress(f"checking batch {batch}, {kind}")
            states = [torch.randn(batch, H, P, N, generator=torch.Generator().manual_seed(1)).to(kind) for _ in range(3)]
            found, want = _ours(states[0], *operands), _definition(states[1], *operands)
            errors[kind] = float((found - want).abs().max() / want.abs().max())
            for name, call, state in zip(("ours", "torch", "place"), (_ours, _definition, _in_place), states, strict=True):
                candidates[f"{name} {kind}"] = partial(call, state, *operands)
        with Copy() as copy:
            progress(f"timing batch {batch}")
            timed = interleave({**candidates, "copy": copy.once}, ROUNDS)
            bandwidth = copy.bytes / timed["copy"].median
            facts = {"copy": copy.facts(bandwidth)}
        for kind in STATES:
            ours, torchs, place = (timed[f"{name} {kind}"].median for name in ("ours", "torch", "place"))
            sizes = {"S": batch, "T": 1, "G": G, "R": H // G, "P": P, "N": N}
            attrs = {"state": str(kind).removeprefix("torch.")}
            moved = build("scan.selective_state_update", attrs=attrs).cost(sizes).bytes
            rows.append(
                {
                    "state": attrs["state"], "batch": batch, "seconds": ours, "bytes": moved, "bytes_per_second": moved / ours,
                    "share_of_copy": moved / ours / bandwidth, "torch_seconds": torchs, "speedup": torchs / ours,
                    "torch_in_place_seconds": place, "speedup_in_place": place / ours, "error": errors[kind],
                }
            )  # fmt: skip
    return Report(
        "scan.selective_state_update",
        f"scan.selective_state_update, {H} heads of {P} channels, {N} states, {G} groups, float32 operands, on {target}",
        LAYOUT, rows, method(ROUNDS), facts,
        ["batches of 2 and 4 MB of states stay in the caches from call to call: above 100 % of copy bandwidth",
         "error: of y, the largest, relative to torch in the same state dtype"],
    )  # fmt: skip


def _operands(batch: int) -> tuple[Tensor, ...]:
    r = torch.Generator().manual_seed(0)
    x, dt, A = torch.randn(batch, H, P, generator=r), torch.randn(batch, H, generator=r), -torch.rand(H, generator=r) * 16
    B, C = torch.randn(batch, G, N, generator=r), torch.randn(batch, G, N, generator=r)
    return x, dt, A, B, C, torch.randn(H, generator=r), torch.randn(H, generator=r)


def _ours(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    wide = (t[..., None].expand(*t.shape, P) for t in (dt, D, bias))
    dt, D, bias = wide
    y = tt.selective_state_update(state, x, dt, A[:, None, None].expand(H, P, N), B, C, D, dt_bias=bias, dt_softplus=True)
    assert isinstance(y, Tensor)
    return y


def _definition(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    step = F.softplus(dt + bias)
    B, C = (t.repeat_interleave(H // G, 1) for t in (B, C))
    decay = torch.exp(step * A)[..., None, None]
    new = state * decay + (step[..., None] * x)[..., None] * B[:, :, None]
    state.copy_(new)
    return torch.einsum("bhpn,bhn->bhp", new, C) + D[:, None] * x


def _in_place(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    step = F.softplus(dt + bias)
    B, C = (t.repeat_interleave(H // G, 1).to(state.dtype) for t in (B, C))
    state.mul_(torch.exp(step * A)[..., None, None].to(state.dtype))
    state.addcmul_((step[..., None] * x)[..., None].to(state.dtype), B[:, :, None])
    return torch.matmul(state, C[..., None])[..., 0].float() + D[:, None] * x
