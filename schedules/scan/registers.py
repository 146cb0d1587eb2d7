"""A scan with its line in registers: V consecutive columns a thread, neighbours through a small shared array.

Per step, in every thread of a block:

    load the step after next (or later) into registers   the loads are in flight while the block waits and computes
    publish the values that neighbours need              two floats a thread, not the line
    -- barrier --                                        the only one of a step: odd and even steps have their own arrays
    compute, store

What travels to the neighbours follows from the Scan. Where a weight is read at its destination (the forward scan) the carry
itself travels. Where it is read at its source (an adjoint) the product travels: it is the same product, taken where the
weight already lies in a register, so that no tensor is read twice or out of line. A tensor read beside the step
(the forward output in an adjoint) travels in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read, Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import Stream, int64
from treadle.schedules.scan.step import Cell, Step, contiguous, reach, reads, step_of

Buffers = dict[str, tirx.Var]


@dataclass(frozen=True)
class Shape:
    """Threads along the line, lines side by side, columns of a thread, steps that loads run ahead, lines of a thread."""

    threads: int
    lanes: int
    columns: int
    ahead: int
    each: int = 1

    @property
    def longest(self) -> int:
        return self.threads * self.columns


def pushed(scan: Scan) -> bool:
    """Whether weights are read where the carry comes from."""
    return any(r.back > 0 for t in scan.terms for r in reads(scan, t.weight))


def refusals(scan: Scan) -> list[str]:
    reasons = []
    if reach(scan) > 1:
        reasons.append(f"the step looks {reach(scan)} along the line: a thread keeps one value of each neighbour")
    for term in scan.terms:
        places = {(r.back, r.shift) for r in reads(scan, term.weight)}
        if (pushed(scan) and places - {(1, term.offset)}) or (not pushed(scan) and places - {(0, 0)}):
            reasons.append(f"the weight at offset {term.offset} is read neither where the carry comes from nor where it goes")
    if not contiguous(scan, scan.line):
        reasons.append("a tensor is not contiguous along the line")
    return reasons


def held(scan: Scan) -> list[Stream]:
    """What a thread keeps of memory: each row it needs, at the step it needs it, once."""
    home = [replace(r, back=0, shift=0) if r.back > 0 else r for r in reads(scan)]
    return k.streams(home)


def sides(scan: Scan) -> int:
    """How many values a thread publishes at a step."""
    return sum(len([s for s in st.shifts if s]) for st in held(scan)) + sum(1 for t in scan.terms if t.offset)


def shared_bytes(scan: Scan, shape: Shape) -> int:
    return 2 * sides(scan) * shape.lanes * shape.each * (shape.threads + 2) * 4


def emit(scan: Scan, buffers: Buffers, shape: Shape, pieces: Expr | None) -> None:
    """One kernel. `pieces` is the number of column groups of a line where it consists of whole ones, else None."""
    with k.grid(scan, shape.lanes * shape.each) as block:
        Line(scan, buffers, shape, pieces, block).emit()


class Edges:
    """The first or last value of each thread, seen by its neighbour; odd and even steps apart."""

    def __init__(self, shape: Shape, offset: int) -> None:
        self.column = shape.columns - 1 if offset < 0 else 0
        self.offset, self.shape = offset, shape
        self.of = self._arrays()

    def _arrays(self) -> list[tirx.Var]:
        """One place beyond the line on either side; writing it first also tells TVM that both arrays live all along."""
        return [T.sblock_alloc_buffer((self.shape.lanes, self.shape.threads + 2), CARRY, scope="shared") for _ in range(2)]

    def clear(self, ty: Expr) -> None:
        for edges in self.of:
            for place in (0, self.shape.threads + 1):
                T.buffer_store(edges, tirx.const(0.0, CARRY), [ty, place])

    def publish(self, parity: int, tx: Expr, ty: Expr, value: Callable[[int], Expr]) -> None:
        T.buffer_store(self.of[parity], value(self.column), [ty, tx + 1])

    def read(self, parity: int, tx: Expr, ty: Expr) -> Expr:
        return self.of[parity][ty, tx + 1 + self.offset]


class Line:
    """The threads of a block along a line. Other forms of it change how values arrive, or how neighbours meet."""

    def __init__(self, scan: Scan, buffers: Buffers, shape: Shape, pieces: Expr | None, block: k.Block) -> None:
        self.scan, self.shape, self.block, self.wide = scan, shape, block, pieces is not None
        self.streams, self.pushed = held(scan), pushed(scan)
        self.rows = [k.rows(buffers, s.tensor, shape.columns, pieces) for s in self.streams]
        self.out_rows = [k.rows(buffers, o.tensor, shape.columns, pieces) for o in scan.outputs]
        self.sets = self._sets()
        self.members: list[Member] = []
        for number in range(shape.each):
            self.members.append(Member(self, number))

    def _sets(self) -> int:
        """Steps whose values a thread keeps in registers."""
        return self.shape.ahead + 1

    def edges(self, offset: int) -> Edges:
        return Edges(self.shape, offset)

    def piece(self, tx: Expr) -> Expr:
        """The columns of a thread, counted in pieces of the line."""
        return tx

    def local(self, kind: str) -> tirx.Var:
        return T.sblock_alloc_buffer((self.shape.lanes, self.shape.threads, self.shape.columns), kind, scope="local")

    def emit(self) -> None:
        unroll = math.lcm(2, self.sets)
        with self._threads() as (tx, ty):
            with k.when(tx == 0):
                for member in self.members:
                    for edges in member.edges.values():
                        edges.clear(ty)
            for early in range(self.shape.ahead):
                self._load(int64(early), early % self.sets, tx, ty)
        self._begin()
        with T.serial(int64(0), tirx.floordiv(self.scan.steps + (unroll - 1), unroll)) as turn:
            for u in range(unroll):
                self._step(turn * unroll + u, u)

    def _begin(self) -> None:
        """What must have happened before anybody publishes."""

    @contextmanager
    def _threads(self) -> Iterator[tuple[Expr, Expr]]:
        with k.phase(self.shape.threads, self.shape.lanes) as (tx, ty):
            here = k.both(self.block.active(ty * self.shape.each), self.piece(tx) * self.shape.columns < self.scan.width)
            with k.when(here):
                yield tx, ty

    def _step(self, step: Expr, u: int) -> None:
        with self._threads() as (tx, ty):
            self._load(step + self.shape.ahead, (u + self.shape.ahead) % self.sets, tx, ty)
            self._arrived(step, tx, ty)
            self._publish(u, tx, ty)
        self._meet()
        with self._threads() as (tx, ty), k.when(step < self.scan.steps):
            for member in self.members:
                member.compute(step, u, tx, ty)

    def _load(self, step: Expr, into: int, tx: Expr, ty: Expr) -> None:
        """Start loading what a step needs; a tensor read one step ahead is loaded one step earlier."""
        for back in sorted({s.back for s in self.streams}):
            with k.when(step - back < self.scan.steps):
                for member in self.members:
                    for i, stream in enumerate(self.streams):
                        if stream.back == back and member.owns(i):
                            self._fetch(member, i, member.row(stream.read, self.rows[i], step - back, ty), into, step, tx, ty)

    def _fetch(self, member: Member, i: int, row: Expr, into: int, step: Expr, tx: Expr, ty: Expr) -> None:
        """One tensor's part of a step, on its way to its registers."""
        self.rows[i].load(row, self.piece(tx), self.exists, member.loaded[into][i], [ty, tx])

    def _arrived(self, step: Expr, tx: Expr, ty: Expr) -> None:
        """What was loaded for a step is in its registers from here on."""

    def _publish(self, u: int, tx: Expr, ty: Expr) -> None:
        for member in self.members:
            for (what, of), edges in member.edges.items():
                edges.publish(u % 2, tx, ty, member.published(what, of, u, tx, ty))

    def _meet(self) -> None:
        """What was published is seen by the neighbours from here on."""
        k.barrier()

    def exists(self, column: Expr) -> Expr:
        return column < self.scan.width


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
