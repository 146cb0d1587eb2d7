"""scan.gspn_adjoint, t2b and b2t: a line longer than a block, along a cluster. See schedules/scan/gspn/cluster.py.

Seven tensors a step where the forward has five, h one step further ahead; products travel, not the carry.
"""

from __future__ import annotations

from treadle.ir import Program
from treadle.schedules.scan.gspn import cluster
from treadle.schedules.scan.gspn.cluster import SERIAL, Knobs, applies, legal, schedule
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]


def default(program: Program, target: Target) -> Knobs:
    return cluster.default(program, target, ahead=1)
