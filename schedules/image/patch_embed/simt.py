"""Patch embedding on the float32 units: the GEMM of `schedules/gemm/linear/simt.py`, gathering patches as it fetches.

Its fetch already goes element by element through registers, one step ahead of the multiplication, so that the gather costs
only its address arithmetic (divisions by constants) and the shorter runs of memory, `patch` elements each.

ptxas (nvcc 13.0, sm_90a, 2026-11-24): 184 registers (float32, C = 3, M = 1152, default point), 68 KiB of shared
memory, no spills: one block of 8 warps on an SM, limited by registers.
"""

from __future__ import annotations

from dataclasses import replace

from treadle.ir import Program
from treadle.schedules.gemm.linear import simt as gemm
from treadle.schedules.gemm.linear.simt import SERIAL, Knobs, applies, legal, schedule
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]


def default(program: Program, target: Target) -> Knobs:
    """Steps of 8: the addresses of a gather take the registers that a deeper step in flight would need."""
    return replace(gemm.default(program, target), bk=8)
