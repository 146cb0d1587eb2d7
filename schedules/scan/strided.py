"""A scan with its line in shared memory, read straight from where the Scan says: any length, any direction, any reads.

A block walks one line, its threads striding over it. The carry of the step and of the one before are two shared rows, so
one barrier a step suffices: a step writes the row that nobody reads before that barrier. Coalesced where the line is the
contiguous axis; elsewhere it is the way out for lines too long to be staged, not a fast one.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.dims import Size, constant
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Read, Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import int64
from treadle.schedules.scan.step import Cell, ends, step_of
from treadle.schedules.target import Target


def longest(target: Target) -> int:
    """The longest line of which two fp32 rows fit the shared memory of a block."""
    return min(g.shared_bytes for g in target.gpus) // 32 * 4 - 2


def refusals(scan: Scan, target: Target) -> list[str]:
    width = constant(scan.width)
    if width is not None and width > longest(target):
        return [f"a line of {width} does not fit shared memory twice in fp32: {target.name} has room for {longest(target)}"]
    return []


def emit(scan: Scan, buffers: dict[str, tirx.Var], threads: int, target: Target) -> None:
    width: Size = scan.width
    limit = longest(target)
    with T.Assert(
        width <= limit, f"a line of the scan is longer than {limit}, the most that shared memory holds", "ValueError"
    ):
        pass
    with k.grid(scan) as block:
        lines = k.Arena([((width + 2,), CARRY)] * 2).buffers
        with T.serial(int64(0), tirx.floordiv(scan.steps + 1, 2)) as turn:
            for u in range(2):
                step = turn * 2 + u
                with k.phase(threads) as (tx, ty), k.when(k.both(block.exists, step < scan.steps)):
                    with T.serial(int64(0), tirx.floordiv(width + (threads - 1), threads)) as tile:
                        l = tile * threads + tx
                        with k.when(l < width):
                            _position(scan, buffers, block, step, l, ty, lines[1 - u], lines[u])
                k.barrier()


def _position(
    scan: Scan, buffers: dict[str, tirx.Var], block: k.Block, step: Expr, l: Expr, ty: Expr, before: tirx.Var, now: tirx.Var
) -> None:
    def load(read: Read) -> Expr:
        return buffers[read.tensor.op.name][*read.index(block.position(ty, scan.time(step - read.back), l + read.shift))]

    here = block.position(ty, scan.time(step), l)
    cell = Cell(scan, step_of(scan, step), ends(l, scan.width), load)
    T.buffer_store(now, cell.carry(lambda offset: before[l + offset + 1]), [l + 1])
    for output in scan.outputs:
        result = cell.value(output.value, now[l + 1]).astype(output.tensor.dtype)
        T.buffer_store(buffers[output.tensor.op.name], result, list(output.index(here)))
