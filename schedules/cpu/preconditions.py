"""What a Program asks of its arguments' values, asked before anything is written."""

from __future__ import annotations

from contextlib import ExitStack

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.schedules.emit import value


def emit(program: Program, buffers: dict[str, tirx.Var]) -> None:
    """Count where each precondition does not hold, in loops that LLVM vectorises; raise an ArgumentError where there are any."""

    def load(tensor: te.Tensor, index: list[tirx.Var]) -> tirx.Var:
        return buffers[tensor.op.name][*index]

    for condition in program.preconditions:
        broken = T.alloc_buffer((1,), "int32", scope="local")
        T.buffer_store(broken, tirx.const(0, "int32"), [0])
        with ExitStack() as loops:
            index = [loops.enter_context(T.serial(tirx.const(0, "int64"), size)) for size in condition.holds.shape]
            fails = tirx.Select(value(condition.holds, index, load), tirx.const(0, "int32"), tirx.const(1, "int32"))
            T.buffer_store(broken, broken[0] | fails, [0])
        with T.Assert(broken[0] == 0, f"{program.name}: a precondition does not hold: {condition.message}", "ArgumentError"):
            pass
