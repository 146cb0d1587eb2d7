"""scan.gspn2d, fused, beside the Programs apart: four times gates and scan, and a merge. And its adjoint, states kept or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from treadle.api import compile
from treadle.bench.copy import Copy
from treadle.bench.report import Column, Report, milliseconds, percent, times
from treadle.bench.timing import interleave, method
from treadle.ir import build
from treadle.ir import dims as dm
from treadle.ir.ops.scan.gspn import DIRECTIONS
from treadle.kernel import Kernel

#: N, C, H, W and G. With gates per channel, 64 channels of 1024 x 1024 and their gradients would not fit 16 GB.
CASES = (
    ((4, 64, 256, 256), 64),
    ((4, 64, 256, 256), 1),
    ((1, 16, 1024, 1024), 16),
    ((1, 64, 1024, 1024), 1),
)
ROUNDS = 3
CHECKPOINT = 32

LAYOUT = (
    Column("size", "size"),
    Column(">G", "G"),
    Column("what", "what"),
    Column(">ms", "seconds", milliseconds),
    Column(">of copy", "share_of_copy", percent),
    Column(">vs apart", "speedup", times),
)


def measure(target: str, progress: Callable[[str], None]) -> Report:
    """Share of copy counts the compulsory bytes of the fused Program, whoever computes it."""
    rows: list[dict[str, Any]] = []
    with Copy() as copy:
        for sizes, g in CASES:
            rows += _case(target, sizes, g, copy, progress)
    bandwidth = max(r.pop("copy_bytes_per_second") for r in rows)
    return Report(
        "scan.gspn2d",
        f"scan.gspn2d float32 on {target}",
        LAYOUT,
        rows,
        method(ROUNDS),
        {"copy": copy.facts(bandwidth)},
        [copy.remark(bandwidth), "apart: gspn_gates and gspn for each direction, and gspn_merge"],
    )


def _made(name: str, target: str, **options: Any) -> Kernel:
    kernel = compile(name, target, **options)
    assert isinstance(kernel, Kernel)
    return kernel


def _case(
    target: str, sizes: Sequence[int], g: int, copy: Copy, progress: Callable[[str], None]
) -> list[dict[str, Any]]:  # fmt: skip
    n, c, h, w = sizes
    progress(f"compiling scan.gspn2d at {n}x{c}x{h}x{w}, G = {g}")
    bound = {"N": n, "C": c, "H": h, "W": w, "G": g}
    random = torch.Generator().manual_seed(0)
    shapes = {"x": (n, c, h, w), "lam": (n, 4, c, h, w), "logits": (n, 4, 3, g, h, w), "u": (n, 4, c, h, w)}
    inputs = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    inputs["merge"] = torch.full((4,), 0.25)
    y, backward = torch.empty(n, c, h, w), build("scan.gspn2d_adjoint")
    grads = {t.op.name: torch.empty([dm.evaluate(s, bound) for s in t.shape]) for t in backward.results}
    adjoint = {k: _made("scan.gspn2d_adjoint", target, point={"checkpoint": k}) for k in (0, CHECKPOINT)}
    fused, apart = _made("scan.gspn2d", target), _apart(target, inputs, y)
    apart()
    want = y.clone()
    fused(**inputs, out={"y": y})
    assert torch.allclose(y, want, rtol=1e-4, atol=1e-5), "fused and apart differ"
    timed = interleave(
        {
            "apart": apart,
            "fused": partial(fused, **inputs, out={"y": y}),
            "adjoint": partial(adjoint[0], dy=want, **inputs, out=grads),
            f"adjoint, checkpoint {CHECKPOINT}": partial(adjoint[CHECKPOINT], dy=want, **inputs, out=grads),
            "copy": copy.once,
        },
        ROUNDS,
    )
    bandwidth = copy.bytes / timed.pop("copy").median
    forward, back = (p.cost(bound).bytes for p in (build("scan.gspn2d"), backward))
    return [
        {
            "size": f"{n}x{c}x{h}x{w}",
            "G": g,
            "what": what,
            "seconds": t.median,
            "share_of_copy": (back if "adjoint" in what else forward) / t.median / bandwidth,
            "speedup": timed["apart"].median / t.median if what == "fused" else None,
            "copy_bytes_per_second": bandwidth,
        }
        for what, t in timed.items()
    ]


def _apart(target: str, inputs: dict[str, torch.Tensor], y: torch.Tensor) -> Callable[[], None]:
    x, merge = inputs["x"], inputs["merge"]
    n, c, h, w = x.shape
    lam, logits, u = ([t[:, e].contiguous() for e in range(4)] for t in (inputs["lam"], inputs["logits"], inputs["u"]))
    gates, states = [torch.empty_like(t) for t in logits], [torch.empty_like(x) for _ in DIRECTIONS]
    kernels = [
        (_made("scan.gspn_gates", target, attrs={"direction": d}), _made("scan.gspn", target, attrs={"direction": d}))
        for d in DIRECTIONS
    ]
    merged = _made("scan.gspn_merge", target)

    def run() -> None:
        for e, (make, scan) in enumerate(kernels):
            make(logits[e], out={"gates": gates[e]})
            scan(x, lam[e], gates[e], out={"h": states[e]})
        merged(*(t.view(n, c, h * w) for t in (*states, *u)), merge, out={"y": y.view(n, c, h * w)})

    return run
