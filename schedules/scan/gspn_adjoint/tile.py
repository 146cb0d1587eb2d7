"""scan.gspn_adjoint, l2r and r2l: the forward's tiles, walked the other way.

Exploits: what schedules/scan/gspn/tile.py exploits. A tensor read one step aside (the gates, h) has a tile of its own, cut one
step aside, so that shifts along the line are other rows of a tile and nothing is special at tile borders.

1. Seven tiles in, five results; three of them take the place of x, lam and dh, which only their own row reads.
2. What is cut aside does not start at a multiple of 16 bytes and is moved element by element, still along the rows.
3. Nothing is loaded ahead: the elements moved alone would wait anyway. Other blocks fill the pause.
4. Gates shared by channels (G = 1): two kernels, as in schedules/scan/gspn_adjoint/line.py.
5. Tiles of 8 steps in every dtype. 16 half-width steps would fill a sector, but there ptxas keeps to 40 registers and spills
   4 bytes; 8 leave room for four blocks a multiprocessor instead of two, and the sector's other half waits in L2.

Predicted, not measured, against the floor of 12 tensors (6 + 6/C with shared gates):

    16 x 64 x 256^2 fp32, G = C   floor 0.96 ms at 3.35 TB/s    predicted 1.3-1.8 TB/s (40-55 %): 2 blocks, 170 KB shared
    the same, G = 1               floor 6 tensors               predicted 35-45 %: 8 tensors of traffic, the first two of them fast

Compiler's report (nvcc 13.0.88, sm_90a, 2026-11-24, symbolic sizes, default Point): 40-64 registers in the tiled kernels, sums
40-48, strided 32-76; dynamic shared 85 KB at 256 rows in fp32, 48 KB in 16 bits; no stack, no spills. Barriers: one a step and two a tile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from treadle.ir import Program
from treadle.schedules.scan import turned
from treadle.schedules.scan.turned import applies, legal, schedule
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

#: Phases are loops of their own and barriers stand between them: the emulation is valid.
SERIAL = True


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(256, (64, 128, 256, 512), "threads of a block, one a row: more cover longer lines")
    rows: int = knob(1, (1, 2, 4), "rows of a thread: longer lines with the same threads")
    steps: int = knob(
        8, (4, 8, 16, 32), "steps of a tile: 32 bytes of a row are a sector, more amortise barriers, at more shared memory"
    )
    ahead: bool = knob(False, (False,), "nothing is loaded ahead: what is read one step aside does not come in 16-byte pieces")


def default(program: Program, target: Target) -> Knobs:
    return replace(turned.default(program, target, Knobs, ahead=False), steps=8)
