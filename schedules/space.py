"""Knobs, Spaces and Points, and the protocol that every schedule module follows.

A schedule is one module with five names:

    Knobs                            a frozen dataclass; each field declared with `knob(default, choices, why)`
    applies(program) -> bool         whether this idea fits the Program at all
    legal(program, target, point)    a sentence per reason for refusal; empty means legal
    default(program, target)         the Point used when nothing was measured
    schedule(program, target, point) the lowered TIR function
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Protocol

from tvm import tirx

from treadle.errors import ArgumentError, UnknownNameError
from treadle.ir import Program
from treadle.schedules.target import Target


def knob(default: Any, choices: Sequence[Any], why: str) -> Any:
    """A choice of a schedule, with every value it may take and the reason it exists."""
    return field(default=default, metadata={"choices": tuple(choices), "why": why})


class Schedule(Protocol):
    """A schedule module, seen as an object."""

    Knobs: type

    def applies(self, program: Program) -> bool: ...
    def legal(self, program: Program, target: Target, point: Any) -> list[str]: ...
    def default(self, program: Program, target: Target) -> Any: ...
    def schedule(self, program: Program, target: Target, point: Any) -> tirx.PrimFunc: ...


@dataclass(frozen=True)
class Space:
    """All Points of a schedule for one Program and Target."""

    module: Schedule
    program: Program
    target: Target

    @property
    def name(self) -> str:
        return self.module.__name__.rpartition(".")[2]  # type: ignore[attr-defined]

    def points(self) -> Iterator[Any]:
        """Every combination of choices, legal or not."""
        knobs = fields(self.module.Knobs)
        for values in itertools.product(*(k.metadata["choices"] for k in knobs)):
            yield self.module.Knobs(**dict(zip((k.name for k in knobs), values, strict=True)))

    def legal(self) -> Iterator[Any]:
        return (p for p in self.points() if not self.refusals(p))

    def refusals(self, point: Any) -> list[str]:
        """Why a Point cannot be used: a value outside its choices, or a sentence of the schedule."""
        for k in fields(point):
            if getattr(point, k.name) not in k.metadata["choices"]:
                return [f"knob {k.name} is {getattr(point, k.name)!r}; its choices are {list(k.metadata['choices'])}"]
        return self.module.legal(self.program, self.target, point)

    def point(self, given: Mapping[str, Any] | None = None) -> Any:
        """The default Point with some knobs set by name; refused with reasons if that is not legal."""
        base = self.module.default(self.program, self.target)
        known = {k.name: getattr(base, k.name) for k in fields(base)}
        for name in given or {}:
            if name not in known:
                raise UnknownNameError.unknown(f"{self.program.name}: knob of schedule {self.name}", name, known)
        point = type(base)(**{**known, **(given or {})})
        if reasons := self.refusals(point):
            raise ArgumentError(
                f"{self.program.name}: schedule {self.name} refuses this point", given=point, expected="; ".join(reasons)
            )
        return point

    def lower(self, point: Any) -> tirx.PrimFunc:
        return self.module.schedule(self.program, self.target, point)


def describe(knobs: type) -> list[dict[str, Any]]:
    """Knobs as plain data, for `treadle show`."""
    return [
        {"name": k.name, "choices": list(k.metadata["choices"]), "default": None if k.default is MISSING else k.default,
         "why": k.metadata["why"]}
        for k in fields(knobs)
    ]  # fmt: skip
