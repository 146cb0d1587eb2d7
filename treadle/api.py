"""`treadle.compile`: from a Program name or a Graph to something that runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from treadle.codegen import bundle, weights
from treadle.errors import ArgumentError
from treadle.ir import build as build_program
from treadle.ir.graph import Graph, single
from treadle.kernel import Kernel
from treadle.runtime.bundle import Bundle
from treadle.schedules.target import Target
from treadle.sessions import load

Dims = Mapping[str, "int | tuple[int, int]"]


def compile_graph(
    graph: Graph,
    target: str,
    out: str | os.PathLike[str],
    given: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    seed: int = 0,
    points: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[str], None] = lambda _: None,
    waive: Collection[str] = (),
) -> bundle.Report:
    """Compile a Graph into a bundle folder and say what was done. What ptx:ARCH runs is the bundle for cuda:ARCH."""
    goal = Target.parse(target).code
    if isinstance(given, (str, os.PathLike)):
        given = weights.read(Path(given))
    arrays = weights.draw(graph, seed) if given is None else weights.check(graph, given)
    return bundle.write_bundle(graph, goal, Path(out), arrays, points, progress, waive)


def compile(
    what: str | Graph,
    target: str = "cpu",
    *,
    dtype: str = "float32",
    attrs: Mapping[str, Any] | None = None,
    dims: Dims | None = None,
    point: Mapping[str, Any] | None = None,
    weights: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    waive: Collection[str] = (),
) -> Kernel | Bundle:
    """Compile a Program by name into a Kernel, or a Graph into a Bundle at `out`.

    For a Program: `dtype`, `attrs`, `dims` (a number fixes a dimension, a pair (lo, hi) narrows its bounds) and `point`
    (knobs of its default schedule). For a Graph: `weights`, a mapping of arrays or a safetensors file, or else random
    weights drawn from `seed`. `waive` names programs whose CUDA kernels may spill registers to memory, which otherwise is an
    error. Compiled code is cached; a second call loads it.
    """
    if isinstance(what, Graph):
        if out is None:
            raise ArgumentError(
                f"compile({what.name}): a Graph becomes a bundle", given="out=None", expected="out='NAME.treadle'"
            )
        compile_graph(what, target, out, weights, seed, waive=waive)
        return Bundle.open(out)
    graph = single(build_program(what, dtype, attrs, dims))
    points = {what: point} if point else {}
    goal = Target.parse(target)
    device = goal.name if goal.kind == "ptx" else goal.kind
    if out is not None:
        compile_graph(graph, target, out, points=points, waive=waive)
        return Kernel(load(out, device), ExitStack())
    keep = ExitStack()
    return Kernel(load(bundle.cached_kernel(graph, goal.code, points, keep, waive), device), keep)
