"""Row blocks: Programs that normalise rows, forward and backward (schedules/row_family.py says which). It exploits:

1. L1. A row is summed and then used while it is there: its bytes cross the memory bus once.
2. Cores. Blocks of rows are independent, and how they are cut depends on no other size: a row's result is the same bits
   whatever stands beside it. Waking the cores is left out where the work is less than it costs.
3. Vectors. Sums run in lanes of float64 side by side, where the order does not matter to a float32 result; the rest of a row
   is plain loops that LLVM vectorises, exponentials included once they are arithmetic.
4. Parts of a weight's gradient are added up in their own output, which for a block of rows stays in L1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.expr import Expr
from treadle.schedules import moves
from treadle.schedules.cpu import vecmath
from treadle.schedules.cpu.loops import parallel_where
from treadle.schedules.cpu.rows import PARALLEL_FROM, legal
from treadle.schedules.emit import Function
from treadle.schedules.row_family import Rows, applies
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["Knobs", "applies", "default", "legal", "schedule"]


@dataclass(frozen=True)
class Knobs:
    lanes: int = knob(16, (8, 16, 32), "partial sums side by side: enough to hide the latency of an addition")


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    rows = Rows.of(program)
    function = Function(program)
    with function as buffers:
        work = sum((moves.elements(t) for t in (*program.args, *program.results)), tirx.const(0, "int64"))
        tasks = dm.simplify(tirx.floordiv(rows.count + (rows.block - 1), tirx.const(rows.block, "int64")))
        parallel_where(
            dm.simplify(work + 8 * program.exps >= PARALLEL_FROM),
            tasks,
            lambda task: _Block(rows, buffers, point.lanes).emit(task),
        )
    return vecmath.vectorise(moves.speculate_selects(function.primfunc))


@dataclass(frozen=True)
class _Block:
    """The rows of one task."""

    rows: Rows
    buffers: dict[str, tirx.Var]
    lanes: int

    def emit(self, task: Expr) -> None:
        rows = self.rows
        with T.serial(0, rows.groups) as group:
            self._clear(task, group)
            if rows.block == 1:
                self._row(task, task, group)
                return
            with T.serial(0, rows.block) as here:
                row = task * rows.block + here
                with T.If(row < rows.count), T.Then():
                    self._row(task, row, group)

    def _clear(self, task: Expr, group: Expr) -> None:
        for part in self.rows.parts:
            with T.serial(0, self.rows.size) as k:
                T.buffer_store(self.buffers[part.op.name], tirx.const(0.0, "float32"), self._at(part, task, group, k))

    def _row(self, task: Expr, row: Expr, group: Expr) -> None:
        rows = self.rows
        sums = {s: self._sum(s, row, group) for s in rows.sums}
        with T.serial(0, rows.size) as k:
            element = self._element(row, group, k)
            for part in rows.parts:
                buffer, at = self.buffers[part.op.name], self._at(part, task, group, k)
                T.buffer_store(buffer, buffer[*at] + rows.term(part, element, sums), at)
            for result in rows.results:
                T.buffer_store(self.buffers[result.op.name], rows.term(result, element, sums), self._at(result, row, group, k))

    def _sum(self, total: te.Tensor, row: Expr, group: Expr) -> Expr:
        lanes, size = self.lanes, self.rows.size
        each = T.alloc_buffer((lanes,), "float64", scope="local")
        with T.vectorized(0, lanes) as lane:
            T.buffer_store(each, tirx.const(0.0, "float64"), [lane])
        with T.serial(0, tirx.truncdiv(size, lanes)) as step, T.vectorized(0, lanes) as lane:
            term = self.rows.term(total, self._element(row, group, step * lanes + lane))
            T.buffer_store(each, each[lane] + term.astype("float64"), [lane])
        found = T.alloc_buffer((1,), "float64", scope="local")
        T.buffer_store(found, tirx.const(0.0, "float64"), [0])
        with T.serial(0, lanes) as lane:
            T.buffer_store(found, found[0] + each[lane], [0])
        with T.serial(0, tirx.truncmod(size, lanes)) as k:
            term = self.rows.term(total, self._element(row, group, tirx.truncdiv(size, lanes) * lanes + k))
            T.buffer_store(found, found[0] + term.astype("float64"), [0])
        return T.bind(found[0].astype("float32"))

    def _element(self, row: Expr, group: Expr, k: Expr) -> Callable[[te.Tensor], Expr]:
        return lambda tensor: self.buffers[tensor.op.name][*self._at(tensor, row, group, k)]

    def _at(self, tensor: te.Tensor, row: Expr, group: Expr, k: Expr) -> list[Expr]:
        grouped = len(self.rows.program.args[0].shape) == 3
        return [*([] if self.rows.column(tensor) else [row]), *([group] if grouped else []), k]
