"""A model: seconds per call beside its torch oracle, and where they go, kernel by kernel."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from treadle.api import compile_graph
from treadle.bench.copy import Copy
from treadle.bench.profile import Share, profile
from treadle.bench.report import Column, Report, giga, milliseconds, percent
from treadle.bench.timing import interleave, method
from treadle.ir import definitions
from treadle.models import SYSTEMS, build, configurations
from treadle.runtime.session import load

ROUNDS = 5
N, SIDE = 1, 448

LAYOUT = (
    Column("program", "program"),
    Column(">calls", "calls"),
    Column(">ms", "seconds", milliseconds),
    Column(">of time", "share_of_time", percent),
    Column(">GB/s", "bytes_per_second", giga),
    Column(">of copy", "share_of_copy", percent),
    Column(">GFLOP/s", "flops_per_second", giga),
)


def measure(system: str, configuration: str, target: str, progress: Callable[[str], None]) -> Report:
    """Time one picture of 448 x 448 in float32."""
    name = f"{system}:{configuration}"
    graph = build(system, configuration)
    sizes = {"N": N, "H": SIDE, "W": SIDE}
    image = np.random.default_rng(0).standard_normal((N, 3, SIDE, SIDE), np.float32)
    with tempfile.TemporaryDirectory() as folder, Copy() as copy:
        compile_graph(graph, target, Path(folder) / "model", progress=progress)
        session = load(Path(folder) / "model")
        weights = {n: torch.from_numpy(np.array(a)) for n, a in session.bundle.weights.items()}
        encode = importlib.import_module(f"{SYSTEMS[system]}.oracle").encode
        config = configurations(system)[configuration]
        progress(f"timing {name} against torch")
        with torch.inference_mode():
            timed = interleave(
                {
                    "treadle": lambda: session.run(image=image),
                    "torch": lambda: encode(weights, torch.from_numpy(image), config, torch.float32),
                    "copy": copy.once,
                },
                ROUNDS,
            )
        progress(f"timing the kernels of {name}")
        shares = profile(graph, session.bundle, {"image": image}, sizes)
    bandwidth = copy.bytes / timed["copy"].median
    ours, theirs = timed["treadle"].median, timed["torch"].median
    total = sum(s.seconds for s in shares)
    return Report(
        name,
        f"{name} {N}x3x{SIDE}x{SIDE} float32 on {target}",
        LAYOUT,
        [kernel_row(s, total, bandwidth) for s in shares],
        method(ROUNDS) + "; kernels: median of 5 replays of the plan",
        {
            "seconds": ours,
            "torch_seconds": theirs,
            "speedup": theirs / ours,
            "kernel_seconds": total,
            "copy": copy.facts(bandwidth),
        },
        [
            f"one call {ours * 1e3:.1f} ms, of which kernels {total * 1e3:.1f}",
            f"torch oracle {theirs * 1e3:.1f} ms, {theirs / ours:.1f}x",
            copy.remark(bandwidth),
        ],
    )


def kernel_row(share: Share, total: float, bandwidth: float) -> dict[str, Any]:
    """A Program's time beside its bound: copy bandwidth, or for products the arithmetic."""
    arithmetic = _contracts(share.program)
    rate = share.bytes / share.seconds
    return {
        "program": share.program,
        "calls": share.calls,
        "seconds": share.seconds,
        "share_of_time": share.seconds / total,
        "bytes_per_second": rate,
        "share_of_copy": None if arithmetic else rate / bandwidth,
        "flops_per_second": share.flops / share.seconds if arithmetic else None,
    }


def _contracts(program: str) -> bool:
    """Whether a Program is a matrix product: those are bound by arithmetic."""
    assert program in definitions()
    return program.startswith("gemm.") or program == "image.patch_embed"
