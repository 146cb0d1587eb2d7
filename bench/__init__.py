"""Benchmarks: kernels, models and the plan, measured beside torch and the machine's copy bandwidth.

Each module has `measure(..., progress) -> Report`; `run` finds it by the name of what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from treadle.bench.report import Report
from treadle.errors import UnknownNameError

__all__ = ["Report", "run"]


def run(names: Sequence[str] | None, target: str, progress: Callable[[str], None]) -> list[Report]:
    """Measure what is named: scan.gspn, gemm.linear, SYSTEM:CONFIGURATION or plan; one of each unless named."""
    from treadle.bench import model, plan_overhead
    from treadle.bench.gemm import linear
    from treadle.bench.scan import gspn
    from treadle.models import SYSTEMS, configurations
    from treadle.schedules.target import Target

    Target.parse(target)
    known: dict[str, Callable[[str, Callable[[str], None]], Report]] = {
        "scan.gspn": gspn.measure,
        "gemm.linear": linear.measure,
        "plan": plan_overhead.measure,
    }
    models = {f"{s}:{c}": partial(model.measure, s, c) for s in SYSTEMS for c in configurations(s)}
    first = {s: models[f"{s}:{next(iter(configurations(s)))}"] for s in SYSTEMS}
    found = []
    for name in names or [*known, *(f"{s}:{next(iter(configurations(s)))}" for s in SYSTEMS)]:
        measure = {**known, **first, **models}.get(name)
        if measure is None:
            raise UnknownNameError.unknown("benchmark", name, [*known, *models])
        progress(f"measuring {name}")
        found.append(measure(target, progress))
    return found
