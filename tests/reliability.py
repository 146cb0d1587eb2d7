"""Measures the promises and writes docs/reliability.md: `make reliability`. Every figure in that file comes from one run of this.

A figure that misses its promise is written down all the same, and the exit status is 1.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from treadle import points
from treadle.api import compile_graph
from treadle.check import sweep
from treadle.codegen.cpu import compiler
from treadle.ir import build, definitions
from treadle.ir.graph import Graph, Init, single

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
EMULATED, ON_PTX = "emulate:sm_90a", "ptx:sm_90a"
CASES = {"cpu": 300, EMULATED: 100, ON_PTX: 20}
POINTS = 200
DAMAGED = 2000

#: Promised in design, and not yet measured by anything here.
UNMEASURED = (
    ("Anything on a GPU", "every CUDA figure above is of a CPU: threads made serial, or the compiled PTX on the PTX machine"),
    ("1,000 legal and 1,000 illegal points", f"{POINTS} of each so far"),
    ("10,000 damaged bundles give 10,000 typed errors and no signal", f"{DAMAGED:,} so far, in Python"),
    ("Tuning killed 50 times loses no acknowledged record", "there is no tuner yet"),
    ("Kernels marked deterministic: 1,000 runs bitwise equal", "none is marked yet"),
    ("Two clean compiles for CUDA give the same bytes", "tested where nvcc is found, not counted here"),
)


@dataclass(frozen=True)
class Figure:
    """A promise, what was counted, and whether it was kept."""

    promise: str
    counted: str
    kept: bool


def oracle(target: str) -> tuple[str, str, bool]:
    cases = CASES[target]
    found = sweep(None, target, cases, progress=say)
    wrong = [m for o in found for m in o.mismatches]
    for m in wrong:
        say(f"{m}")
    total, kernels, at = (sum(getattr(o, what) for o in found) for what in ("cases", "kernels", "points"))
    worst = max(found, key=lambda o: o.worst)
    counted = (
        f"{total:,} cases of {len(found)} programs by {kernels} distinct kernels at {at} distinct points: {len(wrong)} mismatches; "
        f"largest error {worst.worst:.2f} of its bound ({worst.program})"
    )
    return f"`treadle check --target {target} --cases {cases}`: 0 mismatches", counted, not wrong


def legal(target: str) -> tuple[str, str, bool]:
    found = points.legal(target, POINTS, progress=say)
    for m in found.mismatches:
        say(f"{m}")
    counted = f"{found.points} random legal points of {len(found.schedules)} schedules: {len(found.mismatches)} mismatches"
    return f"Legal points equal the oracles on {target}", counted, not found.mismatches


def illegal(target: str) -> tuple[str, str, bool]:
    found = points.illegal(target, POINTS)
    for line in found.unsaid:
        say(line)
    counted = (
        f"{found.points} random illegal points of {len(found.schedules)} schedules: {found.points - len(found.unsaid)} refused"
    )
    return f"Illegal points are refused with a sentence on {target}", counted, not found.unsaid


def bytes_identical() -> tuple[str, str, bool]:
    """Each program into a bundle, twice, from empty caches."""
    names, same = list(definitions()), 0
    before = os.environ.get("TREADLE_CACHE_DIR")
    for name in names:
        say(f"compiling {name} twice")
        seen = []
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder:
                os.environ["TREADLE_CACHE_DIR"] = f"{folder}/cache"
                out = Path(folder) / "out.treadle"
                compile_graph(single(build(name)), "cpu", out)
                files = sorted(f for f in out.rglob("*") if f.is_file())
                seen.append([(str(f.relative_to(out)), f.read_bytes()) for f in files])
        same += seen[0] == seen[1]
    if before is None:
        del os.environ["TREADLE_CACHE_DIR"]
    else:
        os.environ["TREADLE_CACHE_DIR"] = before
    counted = f"{len(names)} programs, each compiled twice from empty caches: {same} bundles byte for byte the same"
    return "Two clean compiles for cpu give the same bytes", counted, same == len(names)


def counted_by(script: str, *args: object) -> dict[str, Any]:
    """What a script of the tests counts; it prints one JSON value."""
    command = [sys.executable, str(Path(__file__).parent / script), *map(str, args)]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout)
    return found


def damaged_bundles() -> tuple[str, str, bool]:
    found = counted_by("runtime/damage.py", "--cases", DAMAGED)
    for line in found["found"]:
        say(line)
    counted = (
        f"{found['refused']:,} typed errors, {found['right']} harmless damages (loaded, results bitwise right), "
        f"{found['died']} signals, {found['wrong']} other results or exceptions; half of them under SHA256SUMS written anew, "
        "where the bytes of the library and of the weights are left out"
    )
    return f"{DAMAGED:,} damaged bundles: typed errors, no signal, no silent load", counted, not found["found"]


def cache_under_fire() -> tuple[str, str, bool]:
    f = counted_by("codegen/cache_fire.py", 32, 10)
    kept = f["killed"] > 0 == f["failed"] == f["half-written"] and f["entries"] == f["right"] == f["kernels"]
    counted = (
        f"{f['processes']} processes, {f['killed']} of them killed: {f['entries']} entries, {f['right']} byte for byte right, "
        f"{f['half-written']} half-written; read-only, it is {'used' if f['read-only accepted'] else 'NOT used'}"
    )
    promise = "32 processes compiling 10 kernels into one cold cache leave exactly 10 entries"
    return promise, counted, kept and bool(f["read-only accepted"])


def sessions() -> tuple[str, str, bool]:
    found = on_bundle("threads", 64, 8, 200)
    kept = found["wrong"] == found["threads that failed"] == 0
    counted = f"64 threads, 8 sessions, {found['calls']:,} calls: {found['wrong']} results differ"
    return "Sessions in many threads are bitwise equal to serial runs", counted, kept


def loads() -> tuple[str, str, bool]:
    found = on_bundle("loads", 5000)
    readings = ", ".join(f"{reading / 2**20:.1f}" for reading in found["bytes after each fifth"])
    counted = f"{readings} MiB of the process's own after each thousand: {found['growth'] / 2**10:+.0f} KiB from the first on"
    return "5,000 times load, run, unload: memory grows by less than 4 MiB", counted, found["growth"] < 4 << 20


def on_bundle(what: str, *counts: int) -> dict[str, Any]:
    """What sessions.py counts on a bundle of one normalisation."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "norm.treadle"
        graph = Graph("norm")
        rows = graph.input("x", (graph.dim("N", 0, 64), 32), "float32")
        weight, bias = (graph.weight(n, (32,), "float32", Init("normal", 0.1)) for n in ("weight", "bias"))
        graph.output("y", graph.call("norm", "norm.layer_norm", rows, weight, bias))
        compile_graph(graph, "cpu", out)
        return counted_by("runtime/sessions.py", out, what, *counts)


def measured() -> list[Figure]:
    steps: list[tuple[Callable[..., tuple[str, str, bool]], tuple[str, ...]]] = [
        (oracle, ("cpu",)),
        (oracle, (EMULATED,)),
        (oracle, (ON_PTX,)),
        (legal, ("cpu",)),
        (legal, (EMULATED,)),
        (illegal, ("cpu",)),
        (illegal, (EMULATED,)),
        (bytes_identical, ()),
        (damaged_bundles, ()),
        (cache_under_fire, ()),
        (sessions, ()),
        (loads, ()),
    ]
    figures = []
    for step, given in steps:
        started = time.perf_counter()
        figures.append(found := Figure(*step(*given)))
        say(f"{'kept  ' if found.kept else 'BROKEN'} {found.promise}: {found.counted} ({time.perf_counter() - started:.0f} s)")
    return figures


def page(figures: list[Figure], measured_at: str) -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("apache-tvm", "apache-tvm-ffi", "torch", "numpy"))
    rows = [f"| {f.promise} | {f.counted} | {'kept' if f.kept else '**broken**'} |" for f in figures]
    return "\n".join(
        [
            "# What treadle promises, and what a run of it found",
            "",
            "Written by `make reliability` (`tests/reliability.py`), never by hand. The bound of a case is twice the error of the",
            "same mathematics in float32 plus the rounding of the result's dtype, both against a float64 oracle; it is the same for",
            "every program and case. Cases, points and inputs are drawn from seed 0.",
            "",
            f"- {date.today()}, commit {measured_at}",
            f"- {machine()}; no GPU",
            f"- Python {platform.python_version()}, {libraries}",
            f"- {compiler()[1]}",
            "",
            "| promise | counted | |",
            "|---|---|---|",
            *rows,
            "",
            "## Not measured yet",
            "",
            "| promise | what there is |",
            "|---|---|",
            *(f"| {promise} | {what} |" for promise, what in UNMEASURED),
            "",
        ]
    )


def machine() -> str:
    model = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ": unknown"
    )
    return f"{os.cpu_count()} cores of {model.partition(':')[2].strip()}"


def commit() -> str:
    """The commit, and whether files differed from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=, with changes", "--exclude=*"],
        capture_output=True,
        text=True,
        cwd=PAGE.parent,
    )
    return done.stdout.strip() or "unknown"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    measured_at = commit()  # others may commit while this runs
    figures = measured()
    PAGE.write_text(page(figures, measured_at))
    say(f"wrote docs/{PAGE.name}")
    return 0 if all(f.kept for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
