"""scan.gspn_logits: a block per plane, a thread per position of the line, gates made a step before they are used.

What `scan.gspn` and `scan.gspn_gates` move apart, 12 tensors where G = C, is 6 here. t2b and b2t touch consecutive memory;
l2r and r2l load and store down columns, a sector an element: their tiles are not built. docs/kernels/gspn_sweep_cuda.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from treadle.ir import Program
from treadle.schedules.scan.sweep import form
from treadle.schedules.scan.sweep.form import applies, legal, schedule
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
    return form.default(program, target, Knobs)
