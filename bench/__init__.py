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
    """Measure what is named: scan.gspn, gemm.linear, plan or SYSTEM:CONFIGURATION; one of each unless named."""
    from treadle.bench import model, plan_overhead
    from treadle.bench.gemm import linear
    from treadle.bench.scan import gspn
    from treadle.models import SYSTEMS, configurations
    from treadle.schedules.target import Target

    if Target.parse(target).kind != "cpu":
        raise DeviceError("benchmarks run on this machine's CPU", given=target, expected="a cpu target")
    known: dict[str, Measure] = {
        "scan.gspn": gspn.measure,
        "gemm.linear": linear.measure,
        "plan": plan_overhead.measure,
    }
    models: dict[str, Measure] = {f"{s}:{c}": partial(model.measure, s, c) for s in SYSTEMS for c in configurations(s)}
    first = {s: models[f"{s}:{next(iter(configurations(s)))}"] for s in SYSTEMS}
    found = []
    every = {**known, **first, **models}
    for name in names or [*known, *first]:
        if name not in every:
            raise UnknownNameError.unknown("benchmark", name, [*known, *models])
        progress(f"measuring {name}")
        found.append(every[name](target, progress))
    return found
