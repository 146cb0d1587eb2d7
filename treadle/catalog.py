"""What there is: programs with their schedules, arguments, costs and knobs, models with their parameters, as plain data."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from operator import mul
from typing import Any

from tvm import te

from treadle.codegen.lower import spaces
from treadle.dtypes import dtype as find_dtype
from treadle.errors import ToolchainError
from treadle.ir import Program, build
from treadle.ir import dims as dm
from treadle.ir.dims import Size
from treadle.ir.graph import Graph
from treadle.ir.program import Definition
from treadle.schedules.space import describe
from treadle.schedules.target import Target

#: Targets whose schedules are listed.
TARGETS = ("cpu", "cuda:sm_90a")


def variants(definition: Definition) -> Iterator[Program]:
    """The Program in each dtype and under every combination of the attributes that are choices, the defaults first."""
    choices = {n: (a.default, *(c for c in a.choices if c != a.default)) for n, a in definition.attrs.items() if a.choices}
    for dtype, *values in itertools.product(definition.dtypes, *choices.values()):
        yield build(definition.name, dtype, dict(zip(choices, values, strict=True)))


def schedules(definition: Definition, target: str) -> list[dict[str, Any]]:
    """Every schedule that fits some variant of the Program; `default_for` says for how many it is the one used."""
    goal = Target.parse(target)
    found: dict[str, dict[str, Any]] = {}
    for program in variants(definition):
        try:
            fitting = spaces(program, goal)
        except ToolchainError:  # a Program without a schedule for this target is listed without one
            continue
        for rank, space in enumerate(fitting):
            entry = found.setdefault(
                space.name,
                {
                    "name": space.name,
                    "state": _state(goal),
                    "by": _checked_by(space.module, goal),
                    "default_for": 0,
                    "doc": " ".join((space.module.__doc__ or "").split()).partition(". ")[0].rstrip("."),
                    "knobs": describe(space.module.Knobs),
                },
            )
            entry["default_for"] += rank == 0
    return list(found.values())


def _state(target: Target) -> str:
    """How far a schedule is trusted: `treadle check` holds every one against the oracles, but on this machine's CPU.

    proven      it runs on the target itself
    emulated    what nvcc made of it runs in the PTX machine, and most also with their threads made serial; no GPU has run it
    """
    return "proven" if target.kind == "cpu" else "emulated"


def _checked_by(schedule: Any, target: Target) -> list[str]:
    """The targets of `treadle check` that run it."""
    if target.kind == "cpu":
        return [target.name]
    (arch,) = (gpu.arch for gpu in target.gpus)
    return [*([f"emulate:{arch}"] if schedule.SERIAL else []), f"ptx:{arch}"]


def describe_program(program: Program) -> dict[str, Any]:
    """All that `treadle show` says of one Program."""
    d = program.definition
    terms: dict[tuple[str, int], int] = {}
    for t, times in program.moved:
        key = (_written(elements(t.shape)), find_dtype(str(t.dtype)).itemsize)
        terms[key] = terms.get(key, 0) + times * key[1]
    return {
        "program": d.name,
        "doc": d.doc,
        "math": d.math,
        "source": d.source,
        "adjoint": d.adjoint,
        "dtype": program.dtype,
        "dtypes": list(d.dtypes),
        "arguments": [{**_tensor(t), "updated": t.op.name in program.updated} for t in program.args],
        "results": [_tensor(t) for t in program.results],
        "attributes": {
            n: {"value": program.attrs[n], "default": a.default, "choices": list(a.choices), "minimum": a.minimum, "doc": a.doc}
            for n, a in d.attrs.items()
        },
        "preconditions": [p.message for p in program.preconditions],
        "dims": {n: asdict(dim) for n, dim in program.dims.items()},
        "cost": {
            "bytes": " + ".join(f"{count} * {size}" for (size, _), count in terms.items()),
            "flops": _written(program.flops),
            "exps": _written(program.exps),
        },
        "schedules": {target: schedules(d, target) for target in TARGETS},
    }


def parameters(graph: Graph) -> int:
    """Elements of all weights of a model."""
    return sum(dm.evaluate(elements(v.shape), {}) for v in graph.weights.values())


def elements(shape: Sequence[Size]) -> Size:
    return reduce(mul, shape)


def attr_text(attrs: Mapping[str, Any]) -> str:
    """Attributes as shown in tables: direction=t2b, chunk=0."""
    return ", ".join(f"{n}={v}" for n, v in attrs.items())


def _written(size: Size) -> str:
    """A size as people write it, without the parentheses that precedence makes needless."""
    return ast.unparse(ast.parse(dm.text(size), mode="eval"))


def _tensor(t: te.Tensor) -> dict[str, Any]:
    return {"name": t.op.name, "dtype": str(t.dtype), "shape": [dm.text(s) for s in t.shape]}
