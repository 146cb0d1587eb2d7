"""scan.gspn2d_adjoint: states of both walks to scratch memory, then every gradient pixel by pixel.

The walks of four directions side by side, forward and backward, as in scan.gspn2d; no sums but in registers, in a fixed order.
About four times the byte floor in bf16, for the scratch. docs/kernels/gspn_sweep_cuda.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from treadle.ir import Program
from treadle.schedules.scan.sweep import backward
from treadle.schedules.scan.sweep.backward import applies, legal, schedule
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

#: Phases are loops of their own and barriers stand between them: the emulation is valid.
SERIAL = True


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(160, (32, 64, 96, 128, 160, 256), "threads of each direction: lines that long are walked at full speed")
    ahead: int = knob(2, (1, 2, 4), "steps that loads run ahead: more hide more latency, at their registers")


def default(program: Program, target: Target) -> Knobs:
    return backward.default(program, target, Knobs)
