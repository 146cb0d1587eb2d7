"""Rung 1, scan.gspn, any direction: one launch per step, everything from memory and back to it. The baseline.

Our own stand-in for the first implementation, after the facts published about it: the host loops over steps, a thread has one
position, the neighbours' carries are read where the launch before wrote them. Shown in l2r, where the walk is along the
contiguous axis, as there: neighbouring threads are a row apart, and each of nine accesses of an element takes a sector of 32
bytes for its four. In t2b the accesses are coalesced and only the launches remain.

float32 alone: the carry is read back from h, and 16 bits would round it at every step.

Predicted for H100, not measured (docs/kernels/gspn_ladder.md), 16 x 8 x 1024^2 fp32, floor 3.22 GB:
    sectors  9 x 32 B x 134 M elements = 38.7 GB; six sectors of 131,072 rows are more than the near half of L2: 12.5 ms
    launches 1024 x (2.2 us + a load's 0.8 us): 3.1 ms, on top, for a launch waits for the one before
    together 15.6 ms, 0.21 TB/s, 6 % of the peak; the original was measured at 3 to 8 % of an A100's
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
