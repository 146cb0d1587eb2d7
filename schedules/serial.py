"""A scheduled CUDA function as a CPU function: every thread loop made serial.

The mapping of an S-TIR schedule is proved this way without a GPU. It holds while each cooperative phase is a loop nest of
its own, so that running the threads one after another within a phase keeps every producer before its consumers. A barrier
between phases then has nothing left to do and is dropped; one inside a thread loop, a shuffle or a warp role cannot be
made serial. A schedule that has them says so with `SERIAL = False`, and is refused here.
"""

from __future__ import annotations

import tvm_ffi
from tvm import ir, tirx

from treadle.errors import ToolchainError


def serial(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The same function with thread-bound loops run one after another, in ordinary memory."""

    found: list[str] = []  # raised below: an error raised inside a walk comes back as another type

    def note(call: ir.Call) -> None:
        name = getattr(call.op, "name", "")
        if name == "tirx.tvm_storage_sync" or "shuffle" in name:
            found.append(name)

    def swap(loop: tirx.For) -> tirx.For:
        if loop.kind != tirx.ForKind.THREAD_BINDING:
            return loop
        if loop.thread_binding.thread_tag.startswith("threadIdx"):
            tvm_ffi.structural_walk(loop.body, (ir.Call, note))
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    def drop(stmt: tirx.Evaluate) -> tirx.Evaluate:
        barrier = getattr(getattr(stmt.value, "op", None), "name", "") == "tirx.tvm_storage_sync"
        return tirx.Evaluate(tirx.const(0, "int32")) if barrier else stmt

    func = tvm_ffi.structural_map(func, (tirx.For, swap))
    if found:
        raise ToolchainError(
            "this schedule cannot be run on the CPU with its threads made serial",
            given=f"{found[0]} inside a thread loop", expected="barriers between thread loops only",
        )  # fmt: skip
    return tvm_ffi.structural_map(func, (tirx.Evaluate, drop))
