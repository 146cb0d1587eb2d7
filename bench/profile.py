"""A model's time per kernel: its plan is run once by the interpreter, then its kernel calls are replayed one by one, timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from treadle.ir import dims as dm
from treadle.ir.graph import Graph
from treadle.runtime.bundle import Bundle
from treadle.runtime.interpreter import Interpreter
from treadle.runtime.library import function, load_library
from treadle.runtime.tensors import NUMPY


@dataclass(frozen=True)
class Share:
    """All calls of one Program within one call of the model."""

    program: str
    calls: int
    seconds: float
    bytes: int
    flops: int


def profile(graph: Graph, bundle: Bundle, inputs: Mapping[str, Any], sizes: Mapping[str, int], rounds: int = 5) -> list[Share]:
    """Time and cost per Program, the slowest first; each kernel's time is its median over `rounds` replays of the plan."""
    library = bundle.library("cpu")
    file = bundle.path / library.file
    module = load_library(file, bundle.sums[library.file].digest)
    interpreter = Interpreter(bundle)
    arguments: list[list[Any]] = []
    interpreter.run(inputs, lambda node, arrays: arguments.append(list(arrays.values())))
    steps = interpreter.plan.steps
    calls = [
        (function(module, step.kernel, file), [NUMPY.tensor(a) for a in arrays])
        for step, arrays in zip(steps, arguments, strict=True)
    ]

    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for times, (kernel, tensors) in zip(seconds, calls, strict=True):
            started = perf_counter()
            kernel(*tensors)
            times.append(perf_counter() - started)

    nodes = {n.name: n for n in graph.nodes}
    found: dict[str, Share] = {}
    for step, times in zip(steps, seconds, strict=True):
        node = nodes[step.node]
        cost = node.program.cost({n: dm.evaluate(s, sizes) for n, s in node.sizes.items()})
        name = node.program.name
        so_far = found.get(name, Share(name, 0, 0.0, 0, 0))
        found[name] = Share(
            name, so_far.calls + 1, so_far.seconds + median(times), so_far.bytes + cost.bytes, so_far.flops + cost.flops
        )
    return sorted(found.values(), key=lambda s: -s.seconds)
