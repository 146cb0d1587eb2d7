"""A scan by one launch per step: a thread per position of all lines, everything from memory and back to it.

What a host loop does whose kernel knows nothing of the step before: the carry of a step is an output of the launch before.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read, Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import int64
from treadle.schedules.scan.registers import Buffers
from treadle.schedules.scan.step import Cell, ends, step_of


def carry_at(scan: Scan) -> Output | None:
    """The output that is the carry itself, unrounded, if there is one."""
    found = [o for o in scan.outputs if o.value.same_as(scan.carry) and str(o.tensor.dtype) == CARRY and not o.shared]
    return found[0] if found else None


def emit(scan: Scan, buffers: Buffers, threads: int) -> None:
    carried = carry_at(scan)
    assert carried is not None
    axes = [*k.independent(scan), scan.line]
    total = k.product([scan.sizes[a] for a in axes])
    with (
        T.serial(int64(0), scan.steps) as step,
        T.thread_binding(int64(0), tirx.floordiv(total + (threads - 1), threads), thread="blockIdx.x") as block,
        T.thread_binding(0, threads, thread="threadIdx.x") as thread,
    ):
        number = block * threads + thread
        with k.when(number < total):
            at: dict[int, Expr] = {}
            for axis in reversed(axes):
                at[axis] = tirx.floormod(number, scan.sizes[axis])
                number = tirx.floordiv(number, scan.sizes[axis])
            _position(scan, buffers, carried, step, at)


def _position(scan: Scan, buffers: Buffers, carried: Output, step: Expr, at: dict[int, Expr]) -> None:
    def there(back: int, shift: int) -> list[Expr]:
        moved = {**at, scan.axis: scan.time(step - back), scan.line: at[scan.line] + shift}
        return [moved[a] for a in range(len(scan.sizes))]

    def load(read: Read) -> Expr:
        return buffers[read.tensor.op.name][*read.index(there(read.back, read.shift))]

    cell = Cell(scan, step_of(scan, step), ends(at[scan.line], scan.width), load)
    carry = T.alloc_buffer((1,), CARRY, scope="local")
    before = buffers[carried.tensor.op.name]
    T.buffer_store(carry, cell.carry(lambda offset: before[*carried.index(there(1, offset))]), [0])
    for output in scan.outputs:
        value = cell.value(output.value, carry[0]).astype(output.tensor.dtype)
        T.buffer_store(buffers[output.tensor.op.name], value, list(output.index(there(0, 0))))
