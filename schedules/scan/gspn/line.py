"""Rung 4, scan.gspn, t2b and b2t: threads along the contiguous line, the carry in their registers.

Exploits: the walk is over rows, so the threads of a warp touch consecutive memory at every step, whatever the direction; the
carry never leaves the registers but for the two edges of each thread; nothing is computed twice, nothing is read twice.

1. One launch: a block per (n, c) line, or several channels side by side where a line is short.
   grid.x runs over channels, so that blocks running together read the same shared gates from L2.
2. V consecutive columns a thread: 16-byte loads and stores, the widest a thread has, where W is a multiple of V; single
   elements, each with its own bound, where it is not.
3. The five tensors of step t+1 are loaded before the barrier of step t: some 80 bytes a thread are in flight while the block
   waits. Latency x bandwidth is about 18 KB a multiprocessor (700 ns, 3.35 TB/s, 132 of them); 768 threads hold 60 KB.
4. Neighbours through two floats a thread in shared memory, not shuffles: they cross warps as they cross lanes.
5. Odd and even steps have edge arrays of their own, so one barrier a step suffices.
6. Carry and sums in fp32; results rounded once, at the store.
7. W > threads * V: the line itself in shared memory, the block striding over it (schedules/scan/strided.py).

Predicted, not measured (no GPU has run this), per direction, against the floor of 6 tensors (3 + 3/C with shared gates):

    16 x 8 x 1024^2 fp32, G = C   floor 3.22 GB, 0.96 ms at 3.35 TB/s    predicted 2.8-3.0 TB/s (84-90 %): 1.07-1.15 ms
    the same, bf16                floor 1.61 GB, 0.48 ms                 predicted 2.7-3.0 TB/s (80-90 %): 0.54-0.60 ms
    32 x 64 x 74^2 bf16, G = 1    floor 0.07 GB, 0.02 ms                 74 steps of about 0.7 us: 0.05 ms, bound by latency

Compiler's report (nvcc 13.0.88, sm_90a, 2026-11-24, symbolic sizes, default Point; wide/single, short and long lines):
fp32 62-68 registers, fp16 and bf16 70-80 wide and 128 single, strided 40; static shared 4,352 bytes; no stack, no spills.
One bar.sync a step; 5 ld.global.v4 and one st.global.v4 a step in the wide kernels: tests/scan/test_scan_code.py asserts it.
"""

from __future__ import annotations

from dataclasses import dataclass

from treadle.ir import Program
from treadle.schedules.scan import lines
from treadle.schedules.scan.lines import applies, legal, schedule
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

#: Phases are loops of their own and barriers stand between them: the emulation is valid.
SERIAL = True


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(
        256, (32, 64, 128, 256, 512, 1024), "threads of a block: more cover longer lines, fewer wait less at a barrier"
    )
    columns: int = knob(
        4, (1, 2, 4, 8), "consecutive columns of a thread: 16 bytes a load at 4 (fp32) or 8; registers grow with it"
    )
    ahead: int = knob(
        1, (1, 3), "steps that loads run ahead: 3 hides more latency where few blocks run, at twice the registers"
    )


def default(program: Program, target: Target) -> Knobs:
    return lines.default(program, target, Knobs, widest=8)
