"""scan.causal_conv1d_update at a Nemotron layer's 6,144 channels and 4 taps, as torch calls it, beside torch.

Plain torch: the state and the new step joined, the last four kept, a grouped conv1d, SiLU. A call is one of
`treadle.torch.causal_conv1d_update`, checks and dispatch included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import treadle.torch as tt
from treadle.bench.report import Column, Report, giga, milliseconds, times
from treadle.bench.timing import interleave, method
from treadle.ir import build

D, WIDTH = 6144, 4
BATCHES = (1, 4, 16, 64)
ROUNDS = 5

LAYOUT = (
    Column("dtype", "dtype"),
    Column("layout", "layout"),
    Column(">batch", "batch"),
    Column(">ms", "seconds", milliseconds),
    Column(">GB/s", "bytes_per_second", giga),
    Column(">torch ms", "torch_seconds", milliseconds),
    Column(">vs torch", "speedup", times),
    Column(">error", "error", "{:.1e}".format),
)


def measure(target: str, progress: Callable[[str], None]) -> Report:
    """Both layouts of the state, one new step."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for batch in BATCHES:
            progress(f"checking batch {batch}, {dtype}")
            r = torch.Generator().manual_seed(0)
            x, weight, bias = (torch.randn(s, generator=r).to(dtype) for s in ((batch, D), (D, WIDTH), (D,)))
            start = torch.randn(batch, D, WIDTH, generator=r).to(dtype)
            states = {"bdl": start.clone(), "bld": start.transpose(1, 2).contiguous().transpose(1, 2)}
            want = _torch(start.clone(), x, weight, bias)
            candidates: dict[str, Callable[[], object]] = {"torch": partial(_torch, start, x, weight, bias)}
            errors = {}
            for layout, state in states.items():
                call = partial(tt.causal_conv1d_update, x, state, weight, bias, "silu")
                errors[layout] = float((call() - want).abs().max() / want.abs().max())
                candidates[layout] = call
            progress(f"timing batch {batch}, {dtype}")
            timed = interleave(candidates, ROUNDS)
            name = str(dtype).removeprefix("torch.")
            moved = build("scan.causal_conv1d_update", name).cost({"S": batch, "L": 1, "D": D, "W": WIDTH}).bytes
            for layout in states:
                ours, theirs = timed[layout].median, timed["torch"].median
                rows.append(
                    {
                        "dtype": name, "layout": layout, "batch": batch, "seconds": ours, "bytes": moved,
                        "bytes_per_second": moved / ours, "torch_seconds": theirs, "speedup": theirs / ours,
                        "error": errors[layout],
                    }
                )  # fmt: skip
    return Report(
        "scan.causal_conv1d_update", f"scan.causal_conv1d_update, {D} channels, width {WIDTH}, one step, on {target}", LAYOUT,
        rows, method(ROUNDS), {}, ["error: the largest, relative to torch in the same dtype"],
    )  # fmt: skip


def _torch(state: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    joined = torch.cat([state, x[..., None]], -1)[..., 1:]
    state.copy_(joined)
    return F.silu(F.conv1d(joined, weight[:, None], bias, groups=len(weight)))[..., 0]
