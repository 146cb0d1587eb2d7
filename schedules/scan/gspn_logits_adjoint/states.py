"""scan.gspn_logits_adjoint: states of both walks to scratch memory, then every gradient pixel by pixel.

No gradient of a gate is written: channels that share one are added up by the thread of their pixel, which takes the sum through
the normalisation. docs/kernels/gspn_sweep_cuda.md.
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
    threads: int = knob(256, (32, 64, 96, 128, 160, 256, 512, 1024), "threads of a block: lines that long are walked at full speed")
    ahead: int = knob(2, (1, 2, 4), "steps that loads run ahead: more hide more latency, at their registers")


def default(program: Program, target: Target) -> Knobs:
    return backward.default(program, target, Knobs)
