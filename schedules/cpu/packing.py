"""Packing of a contraction's factors into float32 panels that the micro-kernel reads front to back.

Rows or columns past the end repeat the last one: the micro-kernel multiplies them and nobody stores the result, so that
packing never reads outside an argument and needs no predicate on values.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.schedules.cpu.loops import put, transposed, vector
from treadle.schedules.cpu.operands import Contraction, ceildiv
from treadle.schedules.emit import Load


class Packing:
    """How both factors of a contraction are packed, chosen by the way each lies in memory."""

    def __init__(self, c: Contraction, load: Load, lanes: int, pitch: int) -> None:
        self.c, self.load, self.lanes, self.pitch = c, load, lanes, pitch
        #: A row is broadcast element by element, so that its panel may keep the order of its source.
        self.rows_run = not c.contiguous(c.row_factor, "row")
        self.rows_vector = c.contiguous(c.row_factor, "step")
        self.columns_run = c.contiguous(c.column_factor, "column")
        self.columns_vector = c.contiguous(c.column_factor, "step")

    def row_at(self, tile: Expr, i: Expr | int, step: Expr, mr: int) -> Expr:
        """Where the rows' panel keeps row `i` of a tile at a step."""
        if self.rows_run:
            return (tile * mr + i) * self.pitch + step
        return tile * (mr * self.pitch) + step * mr + i

    def rows(self, panel: tirx.Var, outer: Sequence[Expr], start: Expr, count: Expr, step: Expr, steps: Expr, mr: int) -> None:
        """Pack a block of rows: each row on its own where memory runs along the reduction, else `mr` rows interleaved."""

        def read(row: Expr, k: Expr) -> Expr:
            index = self.c.index(outer, row, tirx.const(0, "int64"))
            return self.c.factor(self.c.row_factor, index, step + k, self.load)

        last = self.c.rows - 1
        if not self.rows_run:
            with T.serial(0, ceildiv(count, mr)) as t:
                each = [T.bind(tirx.min(start + t * mr + i, last)) for i in range(mr)]
                with T.serial(0, steps) as k:
                    for i, row in enumerate(each):
                        T.buffer_store(panel, read(row, k), [self.row_at(t, i, k, mr)])
            return
        with T.serial(0, ceildiv(count, mr) * mr) as i:
            row = T.bind(tirx.min(start + i, last))
            self._run(steps, lambda k: T.buffer_store(panel, read(row, k), [i * self.pitch + k]), self.rows_vector)

    def columns(
        self, panel: tirx.Var, outer: Sequence[Expr], start: Expr, count: Expr, step: Expr, steps: Expr, nr: int
    ) -> None:
        """Pack a block of columns into panels of `nr`, one row of the panel per step of the reduction."""

        def read(column: Expr, k: Expr) -> Expr:
            index = self.c.index(outer, tirx.const(0, "int64"), column)
            return self.c.factor(self.c.column_factor, index, step + k, self.load)

        last = self.c.columns - 1
        with T.serial(0, ceildiv(count, nr)) as p:
            first = T.bind(start + p * nr)
            base = T.bind(p * (nr * self.pitch))

            def clamped(k: Expr) -> None:
                with T.serial(0, nr) as j:
                    T.buffer_store(panel, read(tirx.min(first + j, last), k), [base + k * nr + j])

            if self.columns_run:
                with T.If(first + nr <= self.c.columns):
                    with T.Then(), T.serial(0, steps) as k, T.vectorized(0, nr) as j:
                        T.buffer_store(panel, read(first + j, k), [base + k * nr + j])
                    with T.Else(), T.serial(0, steps) as k:
                        clamped(k)
                return
            if not self.columns_vector:
                with T.serial(0, steps) as k:
                    clamped(k)
                return
            with T.serial(0, steps // self.lanes) as group:
                k = T.bind(group * self.lanes)
                for j in range(0, nr, self.lanes):
                    each = [T.bind(tirx.min(first + j + i, last)) for i in range(self.lanes)]
                    block = [vector(self.lanes, "float32", lambda lane, c=c: read(c, k + lane)) for c in each]
                    for i, column in enumerate(transposed(block, self.lanes)):
                        put(panel, base + (k + i) * nr + j, self.lanes, column)
            with T.serial(0, steps % self.lanes) as rest:
                clamped(steps // self.lanes * self.lanes + rest)

    def _run(self, steps: Expr, store, vector: bool) -> None:
        """A copy along the reduction, by vectors where its source is contiguous."""
        if not vector:
            with T.serial(0, steps) as k:
                store(k)
            return
        with T.serial(0, steps // self.lanes) as group, T.vectorized(0, self.lanes) as lane:
            store(group * self.lanes + lane)
        with T.serial(0, steps % self.lanes) as rest:
            store(steps // self.lanes * self.lanes + rest)
