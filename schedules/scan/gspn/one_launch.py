"""Rung 2, scan.gspn, l2r and r2l: one launch, a block per line, the carry in shared memory. Accesses still strided.

What is gained over per_step: 1024 launches become 1024 barriers of 60 ns, and three of nine accesses stay on the chip. What
is not: neighbouring threads are still a row apart, 32 bytes are fetched for each element's four.

Predicted for H100, not measured, 16 x 8 x 1024^2 fp32:
    sectors  6 x 32 B x 134 M = 25.8 GB, from L2, where one sector of each row of 128 lines fits: 4.7 ms
    walk     1024 steps of two loads' latency, nothing ahead: 1.7 ms, on top, for one block is alone on its multiprocessor
    together 6.4 ms, 0.50 TB/s, 15 %
"""

from __future__ import annotations

from treadle.ir import Program
from treadle.schedules.scan import alone
from treadle.schedules.scan.alone import SERIAL, Knobs, default, legal, schedule

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]


def applies(program: Program) -> bool:
    return alone.applies(program, along="axis")
