"""scan.gspn2d: a block per plane, the four directions side by side in it, their sum in shared memory.

1. One launch; four rows of threads run the same instructions, each with the start and stride of its direction in registers.
2. Gates are made of logits a step before they are used, in registers, and never written; states are two lines in shared memory.
3. Opposite directions add to one float32 plane and never meet at a step: one order of sums in every run, y rounded once.
4. Planes beyond shared memory: a block per band of rows, each walking everything.

Floor, predictions and the compiler's report: docs/kernels/gspn_sweep_cuda.md. Predicted, not measured: 148 steps of 0.6 us at
1 x 64 x 147^2 bf16 (0.1 ms); a tenth of the byte floor at batch 32, where l2r and r2l still load down columns.
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
    threads: int = knob(160, (32, 64, 96, 128, 160, 256), "threads of each direction: lines that long are walked at full speed")
    ahead: int = knob(2, (1, 2, 4), "steps that loads run ahead: more hide more latency, at their registers")


def default(program: Program, target: Target) -> Knobs:
    return form.default(program, target, Knobs)
