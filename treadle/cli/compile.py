"""treadle compile PROGRAM|MODEL[:CONFIG] -o OUT.treadle"""

from __future__ import annotations

import resource
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from treadle.cli import flags
from treadle.cli.doctor import cache_problem
from treadle.cli.failure import UsageError
from treadle.cli.output import Reply, note, table, working
from treadle.cli.units import size


def compile_(
    what: Annotated[
        str, typer.Argument(metavar="PROGRAM|MODEL[:CONFIG]", help="A name of `treadle list` or `treadle models`.")
    ],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.treadle", help="The bundle to write.")],
    target: flags.Target = "cpu",
    dtype: flags.DType = "float32",
    attr: flags.Attrs = None,
    dim: Annotated[
        list[str] | None, typer.Option("--dim", metavar="NAME=N|LO..HI", help="Fix or bound a dimension; may be repeated.")
    ] = None,
    weights: Annotated[Path | None, typer.Option("--weights", metavar="FILE", help="Weights, a safetensors file.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Draw random weights from this seed (0 unless given).")
    ] = None,
    waive: Annotated[
        list[str] | None,
        typer.Option("--waive", metavar="PROGRAM", help="Let this program's CUDA kernels spill registers; may be repeated."),
    ] = None,
) -> Reply:
    """Compile a program or a model into a bundle."""
    dims = flags.dims(dim)
    if weights is not None and seed is not None:
        raise UsageError("--weights and --seed exclude each other", given="both", expected="one, or neither for seed 0")
    if problem := cache_problem():
        note(problem)
    started = time.perf_counter()
    with working(f"compiling {what}") as say:
        from treadle.api import compile_graph
        from treadle.cli import subject
        from treadle.schedules.target import Target

        Target.parse(target)
        graph = subject.graph(what, dtype, attr, dims)
        if not graph.weights and (weights is not None or seed is not None):
            raise UsageError(f"{what} has no weights", given="--weights or --seed", expected="neither")
        report = compile_graph(graph, target, out, weights, seed or 0, progress=say, waive=waive or ())
    seconds = time.perf_counter() - started

    # A child's figure starts at what its parent held: only the larger of the two means something.
    peak = max(resource.getrusage(who).ru_maxrss << 10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    saved = report.arena_bytes_without_reuse - report.arena_bytes
    at = ", ".join(f"{n} = {v}" for n, v in report.arena_at.items())
    rows = [
        ("bundle", out),
        ("target", report.target),
        ("kernels", f"{report.kernels}, called {report.nodes} times; {'from the cache' if report.cached else 'compiled'}"),
        ("parameters", f"{report.parameters:,}"),
        ("arena", f"{size(report.arena_bytes)} at {at}; reuse saves {size(saved)}" if report.arena_bytes else "none"),
        ("time", f"{seconds:.1f} s"),
        ("peak memory", f"{size(peak)} in the largest process"),
    ]
    result = {**asdict(report), "arena_bytes_saved": saved, "bundle": str(out), "seconds": seconds, "peak_bytes": peak}
    return Reply(result, [table([report.name, ""], rows)])
