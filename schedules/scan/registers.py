"""A scan with its line in registers: V consecutive columns a thread, neighbours through a small shared array.

Per step, in every thread of a block:

    load the step after next (or later) into registers   the loads are in flight while the block waits and computes
    publish the values that neighbours need              two floats a thread, not the line
    -- barrier --                                        the only one of a step: odd and even steps have their own arrays
    compute, store

What travels to the neighbours follows from the Scan. Where a weight is read at its destination (the forward scan) it is the
carry; where it is read at its source (an adjoint) it is the product, taken where the weight already lies in a register, so
that no tensor is read twice or out of line. A tensor read beside the step (the forward output in an adjoint) travels too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import Stream, int64
from treadle.schedules.scan.member import Member
from treadle.schedules.scan.step import contiguous, reach, reads

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
