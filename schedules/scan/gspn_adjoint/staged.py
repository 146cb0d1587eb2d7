"""scan.gspn_adjoint, t2b and b2t: the forward's ring of stages. See schedules/scan/gspn/staged.py.

Seven tensors a step where the forward has five, h one step further ahead; products travel, not the carry.
"""

from __future__ import annotations

from treadle.ir import Program
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan import lines
from treadle.schedules.scan.gspn.staged import SERIAL, Knobs, applies, legal, schedule
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]


def default(program: Program, target: Target) -> Knobs:
    return lines.default(program, target, Knobs, widest=4, most=256, least=4 // k.itemsize(program.dtype))
