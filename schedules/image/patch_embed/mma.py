"""Patch embedding on tensor cores: the GEMM of `schedules/gemm/linear/mma.py` as an implicit one.

A token is a row, its patch the C * patch * patch steps of the reduction; an image of the batch is an outer index. The patch
matrix is never written: the copy into shared memory gathers it, element by element, because a patch's rows of `patch`
elements start at no particular alignment. A step of the weights is 16 or 8 bytes wide as always (588 = 4 * 147 steps for
C = 3, patch = 14). The gather goes through registers and not cp.async, which moves no 2 bytes, so that its latency is paid
once per step: tiles of 64 tokens keep its loads per thread few and several blocks on an SM, which hide each other's.

Predicted, not measured (H100 SXM): bound by the gather, 100-150 TFLOP/s; at 1024 tokens, K = 588, M = 1152 that is
1.4 GFLOP in some 10 us, where reading the image alone takes 1.

ptxas (nvcc 13.0, sm_90a, 2026-11-24): 166 registers (bfloat16, C = 3, M = 1152, default point), 34 KiB of shared
memory, no spills: three blocks of 4 warps on an SM, limited by registers.
"""

from __future__ import annotations

from dataclasses import replace

from treadle.ir import Program
from treadle.schedules.gemm.linear import mma as gemm
from treadle.schedules.gemm.linear.mma import SERIAL, Knobs, applies, legal, schedule
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]


def default(program: Program, target: Target) -> Knobs:
    point = gemm.default(program, target)
    bm = min(point.bm, 64)
    return replace(point, bm=bm, wm=bm // 2, stages=2)
