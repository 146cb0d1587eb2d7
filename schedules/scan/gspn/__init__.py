"""CUDA schedules of scan.gspn, a ladder: docs/kernels/gspn_ladder.md tells it rung by rung.

The last three are there to be measured against. Which of the others is the default, the known sizes say.
"""

from __future__ import annotations

from treadle.ir import Program
from treadle.schedules.scan import rungs

ORDER = ("staged", "line", "tile", "latency", "together", "shuffle", "cluster", "coalesced", "one_launch", "per_step")


def first(program: Program) -> str:
    return rungs.first(program)
