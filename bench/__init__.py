"""Benchmarks: kernels, models and the plan, measured beside torch and the machine's copy bandwidth.

Each module has `measure(..., progress) -> Report`; `run` finds it by the name of what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from treadle.bench.report import Report
from treadle.errors import DeviceError, UnknownNameError

__all__ = ["Report", "run"]

#: (target, progress) -> Report
Measure = Callable[[str, Callable[[str], None]], Report]


def run(names: Sequence[str] | None, target: str, progress: Callable[[str], None]) -> list[Report]:
    """Measure what is named: scan.gspn, gemm.linear, plan, SYSTEM:CONFIGURATION or ptx; one of each but ptx unless named."""
    from treadle.bench import model, plan_overhead
    from treadle.bench.gemm import linear
    from treadle.bench.ptx import speed
    from treadle.bench.scan import (
        causal_conv1d_update,
        gspn,
        gspn2d,
        gspn_adjoint,
        gspn_ladder,
        mamba_chunk_scan,
        selective_scan,
        selective_state_update,
    )
    from treadle.models import SYSTEMS, configurations
    from treadle.schedules.target import Target

    compiled: dict[str, Measure] = {"scan.gspn_ladder": gspn_ladder.measure}  # predicted from what nvcc makes: nothing runs
    if Target.parse(target).kind == "cuda" and names and set(names) <= set(compiled):
        return [compiled[name](target, progress) for name in names]
    if Target.parse(target).kind != "cpu":
        raise DeviceError("benchmarks run on this machine's CPU", given=target, expected="a cpu target")
    known: dict[str, Measure] = {
        "scan.gspn": gspn.measure,
        "scan.causal_conv1d_update": causal_conv1d_update.measure,
        "scan.mamba_chunk_scan": mamba_chunk_scan.measure,
        "scan.selective_scan": selective_scan.measure,
        "scan.selective_state_update": selective_state_update.measure,
        "gemm.linear": linear.measure,
        "plan": plan_overhead.measure,
    }
    models: dict[str, Measure] = {f"{s}:{c}": partial(model.measure, s, c) for s in SYSTEMS for c in configurations(s)}
    first = {s: models[f"{s}:{next(iter(configurations(s)))}"] for s in SYSTEMS}
    asked: dict[str, Measure] = {
        "ptx": speed.measure,  # needs nvcc, and measures no kernel but the machine
        "scan.gspn_adjoint": gspn_adjoint.measure,  # minutes and gigabytes
        "scan.gspn2d": gspn2d.measure,
    }
    found = []
    every = {**known, **first, **models, **asked}
    for name in names or [*known, *first]:
        if name not in every:
            raise UnknownNameError.unknown("benchmark", name, [*known, *models, *asked])
        progress(f"measuring {name}")
        found.append(every[name](target, progress))
    return found
