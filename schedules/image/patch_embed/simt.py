"""Patch embedding on the float32 units: the GEMM of `schedules/gemm/linear/simt.py`, gathering patches as it fetches.

Its fetch already goes element by element through registers, one step ahead of the multiplication, so that the gather costs
only its address arithmetic (divisions by constants) and the shorter runs of memory, `patch` elements each.

ptxas (nvcc 13.0, sm_90a, 2026-11-24): @REPORT@
"""

from treadle.schedules.gemm.linear.simt import SERIAL, Knobs, applies, default, legal, schedule

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]
