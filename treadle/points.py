"""The sweep over Spaces: random Points of every schedule, the legal ones held against the oracles, the others refused.

Programs take turns; each draw takes a Program with random attributes and bindings, one of its schedules, and any combination
of that schedule's choices, so that legal and illegal Points come as often as the Space has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from typing import Any

from treadle.batch import compile_many
from treadle.cases import draw_program, generator
from treadle.check import Mismatch, held, lowered
from treadle.codegen.lower import scheduled, spaces
from treadle.errors import ArgumentError
from treadle.ir import definitions
from treadle.schedules.space import Space
from treadle.schedules.target import Target

Progress = Callable[[str], None]
#: Words of the shortest reason that still says what is too much, and for what.
SENTENCE = 5


@dataclass(frozen=True)
class Drawn:
    """A Point of a Space, with the reasons for its refusal; none where it is legal."""

    space: Space
    point: Any
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Points:
    """What came of a number of Points; `schedules` are those that had one."""

    points: int
    schedules: tuple[str, ...]
    mismatches: tuple[Mismatch, ...] = ()
    unsaid: tuple[str, ...] = ()


def draws(target: Target, seed: int) -> Iterator[Drawn]:
    """Distinct Points without end, the Programs by turns."""
    seen: set[tuple[str, str, Any]] = set()
    known = [d for d in definitions().values() if scheduled(d, target)]
    number = 0
    while True:
        definition, rng = known[number % len(known)], generator(seed, "point", number)
        number += 1
        program = draw_program(definition, definition.dtypes[rng.integers(len(definition.dtypes))], rng)
        fitting = spaces(program, target)
        space = fitting[rng.integers(len(fitting))]
        choices = [(k.name, k.metadata["choices"]) for k in fields(space.module.Knobs)]
        point = space.module.Knobs(**{name: some[rng.integers(len(some))] for name, some in choices})
        if (key := (program.symbol, space.name, point)) not in seen:
            seen.add(key)
            yield Drawn(space, point, tuple(space.refusals(point)))


def legal(target: str, count: int, seed: int = 0, progress: Progress = lambda _: None) -> Points:
    """Compile `count` legal Points and hold each against its oracle in one random case."""
    goal = Target.parse(target)
    chosen = _take(count, (d for d in draws(goal, seed) if not d.reasons))
    progress(f"scheduling {count} points")
    kernels = [lowered(d.space.program, goal, d.space, d.point) for d in chosen]
    with ExitStack() as keep:
        functions = compile_many(kernels, goal, keep, progress)
        found = [held(k, functions[id(k)], seed, number)[1] for number, k in enumerate(kernels)]
    return Points(count, _schedules(chosen), mismatches=tuple(m for m in found if m))


def illegal(target: str, count: int, seed: int = 0) -> Points:
    """Ask for `count` illegal Points, each of which must be refused by an error that holds every reason, a sentence each."""
    goal = Target.parse(target)
    chosen = _take(count, (d for d in draws(goal, seed) if d.reasons))
    unsaid = []
    for d in chosen:
        what = f"{d.space.program.name}: {d.space.name} {d.point}"
        try:
            d.space.point(asdict(d.point))
            unsaid.append(f"{what} was accepted in spite of: {'; '.join(d.reasons)}")
        except ArgumentError as refused:
            lost = [r for r in d.reasons if r not in str(refused) or len(r.split()) < SENTENCE]
            unsaid += [f"{what} is refused without a sentence: {r!r}" for r in lost]
    return Points(count, _schedules(chosen), unsaid=tuple(unsaid))


def _take(count: int, drawn: Iterator[Drawn]) -> list[Drawn]:
    return [next(drawn) for _ in range(count)]


def _schedules(drawn: Sequence[Drawn]) -> tuple[str, ...]:
    return tuple(sorted({f"{d.space.program.name}/{d.space.name}" for d in drawn}))
