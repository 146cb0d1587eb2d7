"""Rung 3, scan.gspn, t2b and b2t: the loop of one_launch, with the line along the contiguous axis. Nothing else changes.

Neighbouring threads read neighbouring elements: a warp's load is four whole sectors instead of 32 parts of some. What is left
is latency: a step's loads begin after the barrier of the step before, and 10 KiB a multiprocessor are in flight, half of the
20 that 3.35 TB/s and 0.8 us ask for, and only while nobody waits.

Predicted for H100, not measured, 16 x 8 x 1024^2 fp32:
    bus 1.05 ms, and 1024 steps of (2 x 0.8 us + barrier) = 1.7 ms, one after the other: 2.7 ms, 1.17 TB/s, 35 %
    256 x 1 has two blocks a multiprocessor, which wait by turns: up to 92 %
"""

from __future__ import annotations

from treadle.ir import Program
from treadle.schedules.scan import alone
from treadle.schedules.scan.alone import SERIAL, Knobs, default, legal, schedule

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]


def applies(program: Program) -> bool:
    return alone.applies(program, along="line")
