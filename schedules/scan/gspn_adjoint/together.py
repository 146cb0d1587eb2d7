"""scan.gspn_adjoint, t2b and b2t: several channels of a thread, for shared gates. See schedules/scan/gspn/together.py.

Seven tensors a step where the forward has five, h one step further ahead; products travel, not the carry.
"""

from __future__ import annotations

from treadle.ir import Program
from treadle.schedules.scan.gspn.together import SERIAL, Knobs, applies, legal, schedule
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]


def default(program: Program, target: Target) -> Knobs:
    """Two channels of two columns: nine values of a channel beside the shared gates, twice, leave room for no more."""
    return Knobs(columns=2, each=2)
