"""Rung 7, scan.gspn, l2r and r2l: tiles of the walked axis turned round in padded shared memory, the line along the threads.

Exploits: the walk is along the contiguous axis, so a step touches one element in each row. Taken as they come these would be
32-byte sectors for 4-byte elements; a tile of a few steps uses the whole sector, and the walk then reads shared memory.

1. One launch, a block per (n, c): all its rows, so that the recurrence needs no other block.
2. A tile is 32 bytes of each row (8 fp32 or 16 half steps): whole sectors; the other half of a 64-byte fetch waits in L2.
3. Rows of a tile are padded to an odd number of words: the walk's column falls into 32 different banks.
4. The next tile is loaded into registers before this one is walked: its latency lies under the steps' barriers.
5. The carry line twice in shared memory, odd and even steps: one barrier a step, two more a tile.
6. Results take the place of x in the tile (only its own row reads it) and leave along the rows, 16 bytes a thread.
7. H > threads * rows: 512 threads of two rows, loaded in place, up to 1024; beyond, the strided form, not coalesced.

Predicted, not measured, against the floor of 6 tensors (3 + 3/C with shared gates):

    16 x 8 x 1024^2 fp32, G = C   floor 0.96 ms at 3.35 TB/s    predicted 1.7-2.2 TB/s (50-65 %): 1.5-1.9 ms; 128 blocks of one
                                                                tile each do not fill 132 multiprocessors' latency
    16 x 64 x 256^2 fp32, G = C   floor 0.48 ms                 predicted 2.3-2.7 TB/s (70-80 %): 4 blocks, 192 KB shared
    32 x 64 x 74^2 bf16, G = 1    floor 0.02 ms                 5 tiles of (0.8 us + 16 steps of 60 ns): about 0.04 ms

Compiler's report (nvcc 13.0.88, sm_90a, 2026-11-24, symbolic sizes, default Point): wide 62-64 registers, single elements
32-38, tall 40-48, strided 32; dynamic shared 48,144 bytes at 256 rows (fp32), 48,656 (half); no stack, no spills.
Barriers: one a step and two a tile; 16-byte global accesses in the wide kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    threads: int = knob(256, (64, 128, 256, 512, 1024), "threads of a block, one a row: more cover longer lines")
    rows: int = knob(1, (1, 2, 4), "rows of a thread: longer lines with the same threads, at as many times the registers")
    steps: int = knob(
        8, (4, 8, 16, 32), "steps of a tile: 32 bytes of a row are a sector, more amortise barriers, at more shared memory"
    )
    ahead: bool = knob(
        True, (False, True), "load the next tile into registers while this one is walked, where it comes in 16-byte pieces"
    )


def default(program: Program, target: Target) -> Knobs:
    return turned.default(program, target, Knobs, ahead=True)
