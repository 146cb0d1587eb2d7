"""scan.gspn and its adjoint, float32, at two sizes: gates per channel and shared, beside torch, torch.compile and a copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from treadle.api import compile
from treadle.bench.copy import Copy
from treadle.bench.report import Column, Report, giga, milliseconds, percent, times
from treadle.bench.scan import gspn_torch
from treadle.bench.timing import interleave, method
from treadle.ir import build
from treadle.ir.ops.scan.gspn import DIRECTIONS
from treadle.ir.oracles.scan import gspn as forward
from treadle.ir.oracles.scan import gspn_adjoint as backward
from treadle.kernel import Kernel

#: What is measured: sizes N, C, H, W, directions, and G where it is not C.
CASES = (
    ((4, 64, 256, 256), tuple(DIRECTIONS), (64, 1)),
    ((1, 64, 1024, 1024), ("t2b", "l2r"), (64,)),
)
#: The torch side takes up to seconds a call.
ROUNDS = 3

LAYOUT = (
    Column("size", "size"),
    Column("direction", "direction"),
    Column(">G", "G"),
    Column(">ms", "seconds", milliseconds),
    Column(">GB/s", "bytes_per_second", giga),
    Column(">of copy", "share_of_copy", percent),
    Column(">of plain copy", "share_of_plain_copy", percent),
    Column(">torch ms", "torch_seconds", milliseconds),
    Column(">vs torch", "speedup", times),
    Column(">compiled ms", "compiled_seconds", milliseconds),
    Column(">vs compiled", "compiled_speedup", times),
    Column(">error", "error", "{:.1e}".format),
)


def measure(target: str, progress: Callable[[str], None], program: str = "scan.gspn") -> Report:
    """Time every direction; bytes are the compulsory ones of Program.cost."""
    rows: list[dict[str, Any]] = []
    with Copy() as copy:
        for sizes, directions, groups in CASES:
            for g in groups:
                rows += _case(target, program, sizes, directions, g, copy, progress)
    bandwidth = max(r.pop("copy_bytes_per_second") for r in rows)
    return Report(
        program,
        f"{program} float32 on {target}",
        LAYOUT,
        rows,
        f"{method(ROUNDS)}; sizes and G one after the other, each beside its own copy",
        {"copy": copy.facts(bandwidth)},
        [
            copy.remark(bandwidth),
            "compiled: torch.compile of one step, walked in Python; for the adjoint, its autograd",
            "error: the largest of any result, relative to torch in float32",
        ],
    )


def _case(
    target: str, program: str, sizes: Sequence[int], directions: Sequence[str], g: int, copy: Copy,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    n, c, h, w = sizes
    random = torch.Generator().manual_seed(0)
    x, lam, dh = (torch.randn(n, c, h, w, generator=random) for _ in range(3))
    inputs = {"x": x, "lam": lam, "gates": torch.rand(n, 3, g, h, w, generator=random) / 3}
    adjoint = program.endswith("adjoint")
    errors, candidates = {}, {}
    for d in directions:
        progress(f"compiling and checking {program} {d} at {n}x{c}x{h}x{w}, G = {g}")
        kernel, attrs = compile(program, target, attrs={"direction": d}), {"direction": d, "chunk": 0}
        assert isinstance(kernel, Kernel)
        more = {"dh": dh, "h": forward.oracle(attrs, torch.float32, **inputs)["h"].contiguous()} if adjoint else {}
        oracle = partial((backward if adjoint else forward).oracle, attrs, torch.float32, **inputs, **more)
        want = oracle()
        out = {name: torch.empty_like(t, memory_format=torch.contiguous_format) for name, t in want.items()}
        candidates[f"treadle {d}"] = partial(kernel, **inputs, **more, out=out)
        candidates[f"torch {d}"] = oracle
        candidates[f"compiled {d}"] = _compiled(d, inputs, dh if adjoint else None)
        candidates[f"treadle {d}"]()
        errors[d] = max(float((out[k] - t).abs().max() / t.abs().max()) for k, t in want.items())
    timed = interleave({**candidates, "copy": copy.once, "plain copy": copy.plain}, ROUNDS)
    bandwidth, plain = (copy.bytes / timed[name].median for name in ("copy", "plain copy"))
    cost = build(program).cost({"N": n, "C": c, "H": h, "W": w, "G": g}).bytes
    rows = []
    for d in directions:
        ours, theirs, compiled = (timed[f"{who} {d}"].median for who in ("treadle", "torch", "compiled"))
        rows.append(
            {
                "size": f"{n}x{c}x{h}x{w}",
                "direction": d,
                "G": g,
                "seconds": ours,
                "bytes": cost,
                "bytes_per_second": cost / ours,
                "share_of_copy": cost / ours / bandwidth,
                "share_of_plain_copy": cost / ours / plain,
                "torch_seconds": theirs,
                "speedup": theirs / ours,
                "compiled_seconds": compiled,
                "compiled_speedup": compiled / ours,
                "error": errors[d],
                "copy_bytes_per_second": bandwidth,
            }
        )
    return rows


def _compiled(direction: str, inputs: dict[str, Tensor], dh: Tensor | None) -> Callable[[], object]:
    if dh is not None:
        return gspn_torch.gradients(direction, inputs, dh)

    def run() -> Tensor:
        with torch.no_grad():
            return gspn_torch.scan(direction, *inputs.values())

    return run
