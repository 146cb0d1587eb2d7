"""The oracle sweep: Programs, compiled under random attributes, bindings and schedule Points, against torch in float64."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import tvm_ffi
from tvm import te

from treadle.batch import compile_many, described
from treadle.cases import draw_inputs, draw_program, draw_sizes, generator
from treadle.catalog import attr_text
from treadle.codegen.lower import Lowered, lower, scheduled, spaces
from treadle.codegen.ptxsim.hazards import HazardError
from treadle.dtypes import dtype as find_dtype
from treadle.errors import DeviceError, ToolchainError, UnknownNameError
from treadle.ir import Program, definitions
from treadle.ir import dims as dm
from treadle.ir.oracles.check import Verdict, compare
from treadle.ir.program import Definition
from treadle.schedules.space import Space
from treadle.schedules.target import Target

#: Kernels drawn per program; the cases share them, each with sizes of its own. A kernel costs about a second, a case a
#: hundredth of one: more cases per kernel than kernels find more.
KERNELS = 18
#: The same for the PTX machine, whose kernels nvcc compiles, and the part of a case's work that it is given.
PTX_KERNELS, PTX_PART = 4, 8
#: Elements of a result compared at least: the tolerance weighs our worst rounding error against the float32 oracle's worst,
#: and for a handful of elements that would be one chance against another.
ENOUGH = 256

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Mismatch:
    """A case whose result is out of tolerance, or that met a hazard, with all that is needed to draw and run it again."""

    program: str
    seed: int
    case: int
    dtype: str
    attrs: Mapping[str, Any]
    sizes: Mapping[str, int]
    bound: tuple[str, ...]
    schedule: str
    point: Mapping[str, Any]
    result: str
    ratio: float
    hazard: str = ""

    def __str__(self) -> str:
        sizes = ", ".join(f"{n}={s}" for n, s in self.sizes.items())
        return (
            f"{self.program} {self.dtype} [{attr_text(self.attrs)}] at {sizes}: "
            f"{self.hazard or f'{self.result} is {self.ratio:.3g} times its bound'}"
            f" ({self.schedule} {attr_text(self.point)}; seed {self.seed}, case {self.case})"
        )


@dataclass(frozen=True)
class Outcome:
    """What the sweep found for one program; `worst` is the largest ratio of error to bound.

    `kernels` counts the distinct ones (attributes, dtype, bindings and Point), `points` the distinct Points of schedules.
    """

    program: str
    cases: int
    kernels: int
    points: int
    worst: float
    mismatches: tuple[Mismatch, ...]


def sweep(
    names: Sequence[str] | None = None,
    target: str = "cpu",
    cases: int = 50,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> list[Outcome]:
    """Check programs (all that the target has schedules for, unless named) with `cases` random cases each."""
    if target.partition(":")[0] == "cuda":
        raise DeviceError(
            "checking runs kernels on this machine's CPU",
            given=target,
            expected="a cpu, emulate or ptx target",
            hint="Checks on a GPU run from the kit: `make gpu-kit` here, `bash gpu-kit/run.sh --out DIR` on its machine.",
        )
    goal = Target.parse(target)
    known = definitions()
    for name in names or ():
        if name not in known:
            raise UnknownNameError.unknown("program", name, known)
    chosen = [known[n] for n in names] if names else [d for d in known.values() if scheduled(d, goal)]
    drawn, part = KERNELS, 1
    if goal.kind == "ptx":
        drawn, part = PTX_KERNELS, PTX_PART
        os.environ.setdefault("TREADLE_PTX_SEED", str(seed))  # the order of warps is drawn like everything else
    kernels: dict[str, list[Lowered]] = {}
    for d in chosen:
        progress(f"scheduling {d.name}")
        kernels[d.name] = _once(_kernel(d, i, goal.code, seed) for i in range(min(drawn, cases)))
    with ExitStack() as keep:
        functions = compile_many([k for ks in kernels.values() for k in ks], goal, keep, progress)
        return [_outcome(d.name, kernels[d.name], functions, cases, seed, progress, part) for d in chosen]


def _once(drawn: Iterable[Lowered]) -> list[Lowered]:
    """Kernels drawn more than once are compiled once: a program with few attributes and knobs has few."""
    return list({(k.symbol, k.schedule, k.point): k for k in drawn}.values())


def _kernel(definition: Definition, index: int, target: Target, seed: int) -> Lowered:
    """The dtypes take turns; every other kernel uses the default schedule and Point, the rest any legal one."""
    rng = generator(seed, definition.name, index)
    program = draw_program(definition, definition.dtypes[index % len(definition.dtypes)], rng)
    fitting = spaces(program, target)
    space = fitting[0] if index % 2 == 0 else fitting[rng.integers(len(fitting))]
    legal = [space.point()] if index % 2 == 0 else list(space.legal())
    point = legal[rng.integers(len(legal))]
    return lowered(program, target, space, point)


def lowered(program: Program, target: Target, space: Space, point: Any) -> Lowered:
    """A kernel at a legal Point; whatever is raised on the way names it."""
    try:
        return lower(program, target, space, point)
    except Exception as wrong:
        what = described(program, space.name, point)
        raise ToolchainError(
            f"{what} cannot be scheduled", given=f"{type(wrong).__name__} {wrong}", expected="a legal point lowers"
        ) from wrong


def _outcome(
    name: str, kernels: Sequence[Lowered], functions: Mapping[int, Callable[..., Any]], cases: int, seed: int,
    progress: Progress, part: int,
) -> Outcome:  # fmt: skip
    worst, mismatches = 0.0, []
    for case in range(cases):
        if case % 25 == 0:
            progress(f"checking {name}: {case} of {cases} cases")
        kernel = kernels[case % len(kernels)]
        ratio, mismatch = held(kernel, functions[id(kernel)], seed, case, part)
        worst = max(worst, ratio)
        mismatches += [mismatch] if mismatch else []
    points = {(k.schedule, k.point) for k in kernels}
    return Outcome(name, cases, len(kernels), len(points), worst, tuple(mismatches))


def held(
    kernel: Lowered, function: Callable[..., Any], seed: int, case: int, part: int = 1
) -> tuple[float, Mismatch | None]:
    """One random case of a kernel: the largest ratio of error to bound among its results, and what to say if it is over."""
    p = kernel.program
    rng = generator(seed, p.name, "case", case)
    sizes = draw_sizes(p, rng, part)
    where = p.name, seed, case, p.dtype, dict(p.attrs), sizes, tuple(p.bound), kernel.schedule, asdict(kernel.point)
    try:
        verdicts = _verdicts(p, function, sizes, rng)
    except HazardError as hazard:
        return math.inf, Mismatch(*where, "", math.inf, str(hazard))
    ratios = {n: v.error / v.bound if v.bound else 0.0 if v.ok else math.inf for n, v in verdicts.items()}
    result = next((n for n, v in verdicts.items() if not v.ok), max(ratios, key=ratios.__getitem__))
    if verdicts[result].ok:
        return ratios[result], None
    return ratios[result], Mismatch(*where, result, ratios[result])


def _verdicts(
    program: Program, function: Callable[..., Any], sizes: Mapping[str, int], rng: np.random.Generator
) -> dict[str, Verdict]:
    """Each result of a kernel against the oracle, inputs drawn until every result has had `ENOUGH` elements compared."""
    oracle = importlib.import_module(f"treadle.ir.oracles.{program.name}").oracle
    shapes = {t.op.name: [dm.evaluate(s, sizes) for s in t.shape] for t in (*program.results, *_updated(program))}
    draws = -(-ENOUGH // min(math.prod(s) for s in shapes.values()))
    found: dict[str, list[tuple[torch.Tensor, ...]]] = {n: [] for n in shapes}
    for _ in range(draws):
        inputs = draw_inputs(program, sizes, rng)
        results = {
            t.op.name: torch.full(shapes[t.op.name], torch.nan, dtype=getattr(torch, str(t.dtype))) for t in program.results
        }
        given = inputs | {n: inputs[n].clone() for n in program.updated}
        function(*(tvm_ffi.from_dlpack(t) for t in (*given.values(), *results.values())))
        truth, yardstick = (oracle(dict(program.attrs), state, **inputs) for state in (torch.float64, torch.float32))
        for n in program.updated:
            results[n] = _nan_where_touched(given[n], inputs[n], truth[n])
        for n, y in results.items():
            found[n].append((y, truth[n], yardstick[n]))
    pooled = {n: [torch.stack(parts) for parts in zip(*triples, strict=True)] for n, triples in found.items()}
    return {n: compare(y, truth, yardstick, _eps(program, y)) for n, (y, truth, yardstick) in pooled.items()}


def _updated(program: Program) -> list[te.Tensor]:
    return [t for t in program.args if t.op.name in program.updated]


def _nan_where_touched(now: torch.Tensor, before: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """An updated argument, NaN where its bits have changed although the mathematics leaves the element as it was."""
    bits = {2: torch.int16, 4: torch.int32}[now.element_size()]
    changed = now.view(bits) != before.view(bits)
    return torch.where(changed & (truth == before), torch.nan, now)


def _eps(program: Program, result: torch.Tensor) -> float:
    """The spacing at one of what a result holds: no finer than the Program's, whose rounding its operands have."""
    kinds = (program.dtype, str(result.dtype).removeprefix("torch."))
    return max(find_dtype(kind).eps or 0.0 for kind in kinds)
