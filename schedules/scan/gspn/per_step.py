"""scan.gspn, any direction: one launch per step, the carry read back from memory.

PLACEHOLDER
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from treadle.ir import Program
from treadle.schedules.emit import Function
from treadle.schedules.scan import launches, step
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

#: A launch ends before the next begins: the emulation is valid.
SERIAL = True


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(512, (128, 256, 512, 1024), "threads of a block, each with one position of the line")


def applies(program: Program) -> bool:
    """Where the carry can be read back: 16 bits would round it at every step, and an adjoint does not write it at all."""
    return program.scan is not None and launches.carry_at(program.scan) is not None


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    assert program.scan is not None
    return step.refusals(program.scan)


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    assert program.scan is not None
    function = Function(program)
    with function as buffers:
        launches.emit(program.scan, buffers, point.threads)
    return function.primfunc
