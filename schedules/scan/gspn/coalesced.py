"""Rung 3, scan.gspn, t2b and b2t: the loop of one_launch, with the line along the contiguous axis. Nothing else changes.

Neighbouring threads read neighbouring elements: a warp's load is four whole sectors instead of 32 parts of some. What is left
is latency: a step's loads begin after the barrier of the step before, and 10 KiB a multiprocessor are in flight, half of the
20 that 3.35 TB/s and 0.8 us ask for, and only while nobody waits.

Predicted for H100, not measured, 16 x 8 x 1024^2 fp32:
    bus 1.05 ms, and 1024 steps of (2 x 0.8 us + barrier) = 1.7 ms, one after the other: 2.7 ms, 1.17 TB/s, 35 %
    256 x 1 has two blocks a multiprocessor, which wait by turns: up to 92 %
"""

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
    return alone.applies(program, along="line")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return alone.legal(program, target)


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    return alone.schedule(program, target, point.threads)
