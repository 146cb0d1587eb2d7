"""A scheduled CUDA function as a CPU function: every thread loop made serial.

The mapping of an S-TIR schedule is proved this way without a GPU. It holds while each cooperative phase is a loop nest of
its own, so that running the threads one after another within a phase keeps every producer before its consumers. It cannot
hold for shuffles, explicit barriers or warp roles; a schedule that has them says so with `SERIAL = False`.
"""

from __future__ import annotations

import tvm_ffi
from tvm import tirx


def serial(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The same function with thread-bound loops run one after another."""

    def swap(loop: tirx.For) -> tirx.For:
        if loop.kind != tirx.ForKind.THREAD_BINDING:
            return loop
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    return tvm_ffi.structural_map(func, (tirx.For, swap))
