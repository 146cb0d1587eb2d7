"""The three loops of a step: what is made from memory, the scan itself, what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import Output, Read
from treadle.schedules.cpu.scan_common import PAD
from treadle.schedules.cpu.sweep_cell import Made, key, place
from treadle.schedules.cpu.sweep_lines import Spot

if TYPE_CHECKING:
    from treadle.schedules.cpu.sweep_walk import Rows


class Place:
    """Expressions of a cell with their variables bound to what stands at the positions of one step."""

    def __init__(self, walk: Rows, step: Expr, time: Expr, m: Expr, row: Expr, slot: Expr) -> None:
        self.walk, self.step, self.time, self.m, self.row, self.slot = walk, step, time, m, row, slot
        self.scan, self.cell = walk.scan, walk.cell

    def early(self, spot: Spot) -> None:
        kept = self._kept_index()
        held: dict[tirx.Var, Expr] = {}
        for number, made in enumerate(self.cell.early):
            self._make(number, made, spot, held)
            if made.var in kept:
                T.buffer_store(self.walk.kept, held[made.var], [self._line(kept[made.var]), PAD + spot.position])

    def _make(self, number: int, made: Made, spot: Spot, held: dict[tirx.Var, Expr]) -> None:
        """Work out a scalar. It is put into memory that LLVM turns into a register: of what has a name only, TVM's
        simplifiers would see through, and a quotient of sums of exponentials is a tree of thousands."""
        expr = self.cell.inside(made.expr) if spot.inside else made.expr
        T.buffer_store(spot.scratch[number], self._value(expr, spot.position, held), [spot.lane])
        held[made.var] = spot.scratch[number][spot.lane]

    def main(self, spot: Spot) -> None:
        j = spot.position
        walk, cell, held = self.walk, self.cell, self._held(j)
        before, here = (self.step + 1) % 2, self.step % 2
        total = self._value(cell.source, j, held)
        for i, (term, weight) in enumerate(zip(self.scan.terms, cell.weights, strict=True)):
            beside = PAD + j + term.offset
            if cell.pushed:
                total = ex.add(total, walk.carry[self.m, before, i, beside])
            else:
                total = ex.add(total, ex.mul(self._value(weight, j, held), walk.carry[self.m, before, 0, beside]))
        carry = T.bind(total)
        if cell.pushed:
            for i, weight in enumerate(cell.weights):
                T.buffer_store(walk.carry, self._value(weight, j, held) * carry, [self.m, here, i, PAD + j])
        else:
            T.buffer_store(walk.carry, carry, [self.m, here, 0, PAD + j])
        held[self.scan.carry] = carry
        for i, (output, expr) in enumerate(cell.outputs):
            self._give(i, output, self._value(expr, j, held), j)

    def late(self, spot: Spot) -> None:
        j = spot.position
        held = self._held(j)
        for number, made in enumerate(self.cell.late):
            self._make(number, made, spot, held)
        for output, expr in self.cell.after:
            self.walk._put(output, self._value(expr, j, held), self.time, self.m, j, self.row)

    def _give(self, number: int, output: Output, value: Expr, j: Expr) -> None:
        walk, name = self.walk, output.tensor.op.name
        if place(output, self.cell.at) in walk.inner:
            assert walk.given is not None
            at = [self.slot * len(self.cell.outputs) + number, PAD + j]
            T.buffer_store(walk.given, tirx.Select(self.m == 0, value, walk.given[*at] + value), at)
        elif output in walk.summed:
            assert walk.totals is not None
            at = [self.m * len(walk.summed) + walk.summed.index(output), j]
            T.buffer_store(walk.totals, walk.totals[*at] + value, at)
        elif name not in walk.results:
            assert walk.states is not None
            T.buffer_store(walk.states.lines, value, [self.m, walk.states.written(self.scan, self.step), PAD + j])
        elif name in walk.sums:
            total = walk.sums[name]
            if total.turned is not None:
                value = walk._turned(name, self.step, self.time, self.m, j) + value
            elif not total.first:
                value = total.lines[self.m, self.time, j] + value
            if total.last:
                walk._put(output, value, self.time, self.m, j, self.row)
            else:
                T.buffer_store(total.lines, value, [self.m, self.time, j])
        else:
            walk._put(output, value, self.time, self.m, j, self.row)

    def _held(self, j: Expr) -> dict[tirx.Var, Expr]:
        return {v: self.walk.kept[self._line(i), PAD + j] for v, i in self._kept_index().items()}

    def _kept_index(self) -> dict[tirx.Var, int]:
        return {v: i for i, v in enumerate(self.cell.kept)}

    def _line(self, number: int) -> Expr:
        return self.slot * len(self.cell.kept) + number

    def _value(self, expr: Expr, j: Expr, held: Mapping[tirx.Var, Expr]) -> Expr:
        bound = {v: e for v, e in held.items() if ex.depends(expr, v)}
        bound |= {v: self._loaded(r, j) for v, r in self.cell.read_by(expr).items()}
        position = self.walk.task.position(self.m, self.time, j)
        return ex.substitute(expr, {**bound, **dict(zip(self.cell.at, position, strict=True))})

    def _loaded(self, read: Read, j: Expr) -> Expr:
        walk = self.walk
        number = walk.inner.get(key(read, self.cell.at))
        if number is not None:
            assert walk.given is not None
            return walk.given[self.slot * len(self.cell.outputs) + number, PAD + j]
        if read.tensor.op.name in walk.task.buffers:
            return walk._load(read, self.time, self.m, j, self.row)
        assert walk.states is not None
        return walk.states.lines[self.m, walk.states.read(self.scan, self.step, read.back), PAD + j + read.shift]
