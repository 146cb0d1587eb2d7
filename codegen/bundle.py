"""Graph -> bundle: plan, kernels, library, manifest, weights, in one folder published by one rename."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from treadle.codegen import cpu, cuda, lower, weights
from treadle.codegen.cache import Cache, digest
from treadle.codegen.host import host_source
from treadle.codegen.manifest import library, manifest
from treadle.codegen.plan import plan
from treadle.codegen.report import describe
from treadle.errors import BundleError, UnknownNameError
from treadle.ir import dims as dm
from treadle.ir.graph import Graph, Value
from treadle.runtime import manifest as mf
from treadle.runtime.sums import write_sums
from treadle.schedules.target import Target

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """What a compilation did: for tables and `--json`."""

    name: str
    target: str
    nodes: int
    kernels: int
    cached: bool
    arena_bytes_without_reuse: int
    arena_bytes: int
    arena_at: Mapping[str, int]
    parameters: int


def write_bundle(
    graph: Graph,
    target: Target,
    out: Path,
    arrays: Mapping[str, weights.Array],
    points: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress = lambda _: None,
    waive: Collection[str] = (),
) -> Report:
    """Compile a Graph into the bundle folder `out`, replacing a bundle that stands there.

    `points` sets knobs per Program name, on that Program's default schedule; `waive` names Programs whose CUDA kernels may
    spill registers.
    """
    out = Path(out)
    if out.exists() and not (out / mf.FILE).is_file():
        raise BundleError(
            f"{out} exists and is no bundle", given="another file or folder", expected="a new path, or an old bundle"
        )
    with ExitStack() as keep:
        made = _compile(graph, target, points or {}, keep, progress, waive)
        progress("writing the bundle")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            private = Path(keep.enter_context(tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent)))
        except OSError as denied:
            raise BundleError(
                f"cannot write {out}", given=str(denied), expected="a writable folder", hint="choose another -o"
            ) from None
        folder = private / "bundle"
        shutil.copytree(made.folder, folder, ignore=shutil.ignore_patterns("SHA256SUMS"))
        if arrays:
            weights.write(arrays, folder / "weights.safetensors")
        write_sums(folder)
        if out.exists():
            out.rename(private / "old")
        folder.rename(out)
    return made.report


def cached_kernel(
    graph: Graph, target: Target, points: Mapping[str, Mapping[str, Any]], keep: ExitStack, waive: Collection[str] = ()
) -> Path:
    """The bundle of a Graph without weights, straight from the cache."""
    return _compile(graph, target, points, keep, lambda _: None, waive).folder


@dataclass(frozen=True)
class _Made:
    folder: Path
    report: Report


def _compile(
    graph: Graph, target: Target, points: Mapping[str, Mapping[str, Any]], keep: ExitStack, progress: Progress,
    waive: Collection[str],
) -> _Made:  # fmt: skip
    """Everything of a bundle but its weights, in a cache entry."""
    progress("planning")
    planned = plan(graph)
    programs = lower.distinct(n.program for n in planned.nodes)
    for name in set(waive) - {p.name for p in programs}:
        raise UnknownNameError.unknown("program to waive", name, sorted({p.name for p in programs}), where=graph.name)
    lowered = []
    for i, program in enumerate(programs):
        progress(f"scheduling {i + 1} of {len(programs)} kernels: {program.name}")
        space = lower.spaces(program, target)[0]
        lowered.append(lower.lower(program, target, space, space.point(points.get(program.name))))

    cuda_target = target.kind == "cuda"
    described = {
        mf.FILE: manifest(graph, target).to_json(),
        "plan.json": json.dumps(planned.to_json(), indent=1, sort_keys=True) + "\n",
    }
    digests = (hashlib.sha256(text.encode()).hexdigest() for text in described.values())
    files = {
        **described,
        "sources/host.cc": host_source(planned, "cuda" if cuda_target else "cpu", *digests),
        "sources/kernels.tir.py": "\n".join(k.func.script(show_meta=True) for k in lowered),
        "reports/kernels.json": json.dumps([describe(k) for k in lowered], indent=1, sort_keys=True) + "\n",
    }
    key = digest({
        "files": files,
        "target": asdict(target.cpu),
        "waive": sorted(set(waive)),
        "tools": cuda.key() if cuda_target else cpu.key(),
    })  # fmt: skip

    def build(folder: Path) -> None:
        progress(f"compiling {len(lowered)} kernels for {target.name}")
        out = folder / library(target)
        out.parent.mkdir(parents=True)
        made = {}
        if cuda_target:
            made = cuda.link_library(lowered, files["sources/host.cc"], target, out, cuda.support_headers(), waive)
        else:
            cpu.link_library(lowered, files["sources/host.cc"], target, out)
        for name, text in {**files, **made}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)

    folder, cached = Cache.default().get_or_build(key, build, keep)
    parameters = sum(_count(v) for v in graph.weights.values())
    report = Report(
        graph.name, target.name, len(planned.nodes), len(lowered), cached,
        planned.bytes_without, planned.bytes_with, planned.at, parameters,
    )  # fmt: skip
    return _Made(folder, report)


def _count(value: Value) -> int:
    total = 1
    for s in value.shape:
        total *= dm.evaluate(s, {})
    return total
