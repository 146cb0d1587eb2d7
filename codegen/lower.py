"""Program + Schedule + Point -> TIR, the same way for every target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from treadle.errors import ToolchainError
from treadle.ir import Program, build
from treadle.ir.program import Definition
from treadle.schedules import cpu, cuda
from treadle.schedules.serial import serial
from treadle.schedules.space import Space
from treadle.schedules.target import Target


@dataclass(frozen=True)
class Lowered:
    """A Program mapped onto a Target: the function to compile, and what was chosen on the way."""

    program: Program
    schedule: str
    point: Any
    func: tirx.PrimFunc

    @property
    def symbol(self) -> str:
        return self.program.symbol


def spaces(program: Program, target: Target) -> list[Space]:
    """The schedules of a Program on a Target, the default first."""
    return cpu.spaces(program, target) if target.kind == "cpu" else cuda.spaces(program, target)


def scheduled(definition: Definition, target: Target) -> bool:
    """Whether any schedule maps a Program onto a Target: attention has none for CUDA yet."""
    try:
        return bool(spaces(build(definition.name, definition.dtypes[0]), target))
    except ToolchainError:
        return False


def lower(program: Program, target: Target, space: Space | None = None, point: Any = None) -> Lowered:
    """Lower with the given schedule and Point, or with the defaults."""
    space = space or spaces(program, target)[0]
    point = space.point() if point is None else point
    func = space.lower(point)
    return Lowered(program, space.name, point, serial(func) if target.kind == "emulate" else func)


def distinct(programs: Iterable[Program]) -> list[Program]:
    """Each Program once, by what it computes: a kernel is compiled per program and shape class, not per layer."""
    return sorted({p.symbol: p for p in programs}.values(), key=lambda p: p.symbol)
