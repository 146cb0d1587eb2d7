"""What a thread keeps of one line: its values, carry and edges, and the arithmetic of a step on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import int64
from treadle.schedules.scan.step import Cell, Step, step_of

if TYPE_CHECKING:
    from treadle.schedules.scan.registers import Line


class Member:
    """One of the lines of a thread: its carry, its edges, and what of memory it shares with no other line."""

    def __init__(self, line: Line, number: int) -> None:
        self.line, self.number, self.scan = line, number, line.scan
        self.loaded = [
            [line.local(str(s.tensor.dtype)) if self.owns(i) else line.members[0].loaded[at][i] for i, s in enumerate(line.streams)]
            for at in range(line.sets)
        ]
        self.out = [line.local(str(o.tensor.dtype)) for o in self.scan.outputs]
        #: what is carried into the next step: the carry, or one product per term
        self.carried = [[line.local(CARRY) for _ in (self.scan.terms if line.pushed else [0])] for _ in range(2)]
        offsets = sorted({t.offset for t in self.scan.terms} - {0})
        self.edges = {("carry", i): line.edges(t.offset) for i, t in enumerate(self.scan.terms) if line.pushed and t.offset}
        if not line.pushed:
            self.edges = {("carry", o): line.edges(o) for o in offsets}
        self.edges |= {(i, o): line.edges(o) for i, s in enumerate(line.streams) for o in s.shifts if o}

    def owns(self, i: int) -> bool:
        """Whether a tensor is this line's own; what several lines share is kept by the first."""
        return self.number == 0 or self.line.block.inner not in {a for a, _ in self.line.streams[i].read.shared}

    def row(self, end: Read | Output, rows: k.Rows, step: Expr, ty: Expr) -> Expr:
        lane = ty * self.line.shape.each + self.number
        return rows.row(end.index(self.line.block.position(lane, self.scan.time(step), int64(0))))

    def published(self, what: int | str, of: int, u: int, tx: Expr, ty: Expr) -> Callable[[int], Expr]:
        if what == "carry":
            return lambda v: self.carried[(u + 1) % 2][of if self.line.pushed else 0][ty, tx, v]
        return lambda v: self.loaded[u % self.line.sets][what][ty, tx, v].astype(CARRY)

    def compute(self, step: Expr, u: int, tx: Expr, ty: Expr) -> None:
        scan, line = self.scan, self.line
        new = line.local(CARRY) if line.pushed else self.carried[u % 2][0]
        around = step_of(scan, step)
        for v in range(line.shape.columns):
            cell = self._cell(around, u, tx, ty, v)
            T.buffer_store(new, self._carry(cell, u, tx, ty, v), [ty, tx, v])
            for output, out in zip(scan.outputs, self.out, strict=True):
                T.buffer_store(out, cell.value(output.value, new[ty, tx, v]).astype(output.tensor.dtype), [ty, tx, v])
        for output, rows, out in zip(scan.outputs, line.out_rows, self.out, strict=True):
            rows.store(self.row(output, rows, step, ty), line.piece(tx), line.exists, out, [ty, tx])
        if line.pushed:
            for term, products in zip(scan.terms, self.carried[u % 2], strict=True):
                for v in range(line.shape.columns):
                    weight = scan.value(term.weight, lambda r, v=v: self._read(r, u, tx, ty, v, home=True))
                    T.buffer_store(products, ex.mul(weight, new[ty, tx, v]), [ty, tx, v])

    def _cell(self, around: Step, u: int, tx: Expr, ty: Expr, v: int) -> Cell:
        """One column. Only the outer ones of a thread can lack a neighbour, unless the line may end inside a thread."""
        line = self.line
        last, piece = line.shape.columns - 1, line.piece(tx)

        def exists(shift: int) -> Expr | None:
            if shift < 0:
                return piece > 0 if v == 0 else None
            return piece * line.shape.columns + v + shift < self.scan.width if v == last or not line.wide else None

        return Cell(self.scan, around, exists, lambda r: self._read(r, u, tx, ty, v))

    def _read(self, read: Read, u: int, tx: Expr, ty: Expr, v: int, home: bool = False) -> Expr:
        wanted = replace(read, back=0, shift=0) if home else read
        i = next(i for i, s in enumerate(self.line.streams) if k.same_stream(s.read, wanted))
        return self._beside(i, wanted.shift, u, tx, ty, v, self.loaded[u % self.line.sets][i])

    def _beside(
        self, what: int | str, offset: int, u: int, tx: Expr, ty: Expr, v: int, own: tirx.Var, of: int | None = None
    ) -> Expr:
        if 0 <= v + offset < self.line.shape.columns:
            return own[ty, tx, v + offset]
        return self.edges[what, offset if of is None else of].read(u % 2, tx, ty)

    def _carry(self, cell: Cell, u: int, tx: Expr, ty: Expr, v: int) -> Expr:
        before = self.carried[(u + 1) % 2]
        if not self.line.pushed:
            return cell.carry(lambda o: self._beside("carry", o, u, tx, ty, v, before[0]))
        products = [self._beside("carry", t.offset, u, tx, ty, v, before[i], of=i) for i, t in enumerate(self.scan.terms)]
        return cell.total([cell.where(cell.beside({t.offset}), p) for t, p in zip(self.scan.terms, products, strict=True)])
