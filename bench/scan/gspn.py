"""scan.gspn at 4x64x256x256 float32: four directions, gates per channel and shared, beside torch and copy bandwidth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from treadle.api import compile
from treadle.bench.copy import Copy
from treadle.bench.report import Column, Report, giga, milliseconds, percent, times
from treadle.bench.timing import interleave, method
from treadle.ir import build
from treadle.ir.ops.scan.gspn import DIRECTIONS
from treadle.ir.oracles.scan.gspn import oracle
from treadle.kernel import Kernel

N, C, H, W = 4, 64, 256, 256
ROUNDS = 5

LAYOUT = (
    Column("direction", "direction"),
    Column(">G", "G"),
    Column(">ms", "seconds", milliseconds),
    Column(">GB/s", "bytes_per_second", giga),
    Column(">of copy", "share_of_copy", percent),
    Column(">of plain copy", "share_of_plain_copy", percent),
    Column(">torch ms", "torch_seconds", milliseconds),
    Column(">vs torch", "speedup", times),
    Column(">error", "error", "{:.1e}".format),
)


def measure(target: str, progress: Callable[[str], None]) -> Report:
    """Time every direction; bytes are the compulsory ones of Program.cost."""
    generator = torch.Generator().manual_seed(0)
    x, lam = (torch.randn(N, C, H, W, generator=generator) for _ in range(2))
    gates = {g: torch.rand(N, 3, g, H, W, generator=generator) / 3 for g in (C, 1)}
    out = torch.empty_like(x)
    kernels: dict[str, Kernel] = {}
    for d in DIRECTIONS:
        progress(f"compiling scan.gspn {d}")
        made = compile("scan.gspn", target, attrs={"direction": d})
        assert isinstance(made, Kernel)
        kernels[d] = made

    candidates: dict[str, Callable[[], object]] = {}
    errors = {}
    for g in gates:
        for d, kernel in kernels.items():
            progress(f"checking scan.gspn {d}, G = {g}")
            want = oracle({"direction": d, "chunk": 0}, torch.float32, x=x, lam=lam, gates=gates[g])["h"]
            kernel(x, lam, gates[g], out={"h": out})
            errors[d, g] = float((out - want).abs().max() / want.abs().max())
            candidates[f"treadle {d} {g}"] = partial(kernel, x, lam, gates[g], out={"h": out})
            candidates[f"torch {d} {g}"] = partial(
                oracle, {"direction": d, "chunk": 0}, torch.float32, x=x, lam=lam, gates=gates[g]
            )
    with Copy() as copy:
        progress(f"timing {len(candidates)} candidates in {ROUNDS} rounds")
        timed = interleave({**candidates, "copy": copy.once, "plain copy": copy.plain}, ROUNDS)
        bandwidth, plain = (copy.bytes / timed[name].median for name in ("copy", "plain copy"))
    cost = {g: build("scan.gspn").cost({"N": N, "C": C, "H": H, "W": W, "G": g}).bytes for g in gates}
    rows = []
    for d, g in errors:
        ours, theirs = timed[f"treadle {d} {g}"].median, timed[f"torch {d} {g}"].median
        rows.append(
            {
                "direction": d,
                "G": g,
                "seconds": ours,
                "bytes": cost[g],
                "bytes_per_second": cost[g] / ours,
                "share_of_copy": cost[g] / ours / bandwidth,
                "share_of_plain_copy": cost[g] / ours / plain,
                "torch_seconds": theirs,
                "speedup": theirs / ours,
                "error": errors[d, g],
            }
        )
    return Report(
        "scan.gspn",
        f"scan.gspn {N}x{C}x{H}x{W} float32 on {target}",
        LAYOUT,
        rows,
        method(ROUNDS),
        {"copy": copy.facts(bandwidth), "plain_copy_bytes_per_second": plain},
        [
            f"{copy.remark(bandwidth)}; {plain / 1e9:.1f} GB/s with ordinary stores, which read what they overwrite",
            "error: the largest, relative to torch in float32",
        ],
    )
