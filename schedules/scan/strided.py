"""A scan with its line in shared memory, read straight from where the Scan says: any length, any direction, any reads.

A block walks one line, its threads striding over it. The carry of the step and of the one before are two shared rows, so
one barrier a step suffices: a step writes the row that nobody reads before that barrier. Coalesced where the line is the
contiguous axis; elsewhere it is the way out for lines too long to be staged, not a fast one.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import expr as ex
from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Read, Scan
from treadle.schedules.cpu import scan_common as common
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import int64


def shared_bytes(width: int) -> int:
    return 2 * -(-(width + 2) * 4 // 16) * 16


def longest(shared: int) -> int:
    """The longest line that two rows of shared memory hold."""
    return shared // 32 * 4 - 2


def emit(scan: Scan, buffers: dict[str, tirx.Var], threads: int) -> None:
    width: Size = scan.width
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
    for kind in common.kinds(scan, step):
        with k.when(kind.when):
            cell = common.Cell(scan, kind, l, True, load)
            value = ex.add(cell.value(scan.source), cell.terms(lambda offset: before[l + offset + 1]))
            T.buffer_store(now, value, [l + 1])
            for output in scan.outputs:
                result = cell.value(output.value, now[l + 1]).astype(output.tensor.dtype)
                T.buffer_store(buffers[output.tensor.op.name], result, list(output.index(here)))
