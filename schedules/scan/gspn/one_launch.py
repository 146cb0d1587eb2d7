"""scan.gspn, l2r and r2l: PLACEHOLDER"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from treadle.ir import Program
from treadle.schedules.scan import alone
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

#: Phases are loops of their own and barriers stand between them: the emulation is valid.
SERIAL = True


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(512, (128, 256, 512, 1024), "threads of a block, striding over the line")


def applies(program: Program) -> bool:
    return alone.applies(program, along="axis")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return alone.legal(program, target)


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    return alone.schedule(program, target, point.threads)
