"""Scans walked side by side in a block: a thread per position of a line, a row of threads per scan, carry lines in shared memory.

Per step, in every thread:

    main      the step itself: three products with the carry line, what it gives to results and sums
    prepare   what the next step needs of memory, widened, and the gates made of it: none of it waits for the carry
    load      the elements of a later step, into the registers that `prepare` has just emptied

and one barrier. All rows of threads run the same instructions: where a scan starts, which way it goes and which neighbours
exist are registers (`_Place`), set once before the walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir import expr as ex
from treadle.ir.dims import Size, constant
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read, Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import int64
from treadle.schedules.scan.sweep.alike import CARRIED, Common, bound, flag, value


@dataclass(frozen=True)
class Room:
    """A tensor kept in scratch memory: where it begins there."""

    flat: tirx.Var
    offset: Expr


#: The tensors of a Program, and those that it keeps for itself.
Buffers = dict[str, "tirx.Var | Room"]


def int32(number: int) -> Expr:
    return tirx.const(number, "int32")


@dataclass(frozen=True)
class Shape:
    """Threads along a line; steps that loads run ahead, none where threads stride over longer lines."""

    threads: int
    ahead: int

    @property
    def sets(self) -> int:
        return max(1, self.ahead)

    @property
    def unroll(self) -> int:
        """Steps of the loop's body: odd and even ones have carry lines of their own, and each set of registers its turn."""
        return self.sets if self.sets % 2 == 0 else 2 * self.sets


@dataclass
class Registers:
    """What the threads of a block keep from one phase to the next, by name."""

    rows: int
    threads: int
    _found: dict[str, tirx.Var] = field(default_factory=dict)

    def of(self, name: str, kind: str = CARRY) -> tirx.Var:
        if name not in self._found:
            self._found[name] = T.sblock_alloc_buffer((self.rows, self.threads), kind, scope="local")
        return self._found[name]


@dataclass(frozen=True)
class Sums:
    """Planes of sums in shared memory: the number of each scan's plane, the rows of its band, words from row to row.

    The band begins at row `low` of the plane in memory.
    """

    buffer: tirx.Var
    number: dict[int, int]
    low: Expr
    rows: Expr
    pitch: Expr


class Round:
    """Scans side by side. `fixed` is the place along every axis but walk and line; `lines` the carry of odd and even steps.

    Where weights are read where the carry comes from, there is a line for each of the products.
    """

    def __init__(
        self, alike: list[Common], lags: list[Expr], buffers: Buffers, shape: Shape, registers: Registers,
        fixed: dict[int, Expr], lines: Sequence[Sequence[tirx.Var]], sums: Sums | None, summed: set[str],
    ) -> None:  # fmt: skip
        self.alike, self.lags, self.buffers, self.shape, self.registers = alike, lags, buffers, shape, registers
        self.fixed, self.lines, self.sums, self.summed = fixed, lines, sums, summed
        self.common = alike[0]

    @property
    def steps(self) -> Expr:
        total: Expr = int64(0)
        for common, lag in zip(self.alike, self.lags, strict=True):
            total = tirx.max(total, common.scan.steps + lag)
        return total.astype("int32")

    def begin(self, tx: Expr, ty: Expr) -> None:
        """Set what each thread keeps of its scan, clear both ends of its line, and load what the first steps need."""
        for row, (common, lag) in enumerate(zip(self.alike, self.lags, strict=True)):
            with k.when(ty == row):
                self._place(common, lag, tx, ty)
        with k.when(tx == 0):
            for line in (*self.lines[0], *self.lines[1]):
                for end in (int32(0), self._at("width", tx, ty) + 1):
                    T.buffer_store(line, tirx.const(0.0, CARRY), [ty, end])
        if self.shape.ahead:
            with k.when(tx < self._at("width", tx, ty)):
                first = -self._at("lag", tx, ty)
                for early in range(self.shape.ahead):
                    self._load(first + early, early, tx, ty)
                self._prepare(first, 0, tx, ty)
                self._load(first + self.shape.ahead, 0, tx, ty)

    def step(self, step: Expr, u: int, tx: Expr, ty: Expr) -> None:
        """`u` is the step's number in the unrolled loop."""
        t = step - self._at("lag", tx, ty)
        width, threads = self._at("width", tx, ty), self.shape.threads
        if self.shape.ahead:
            with k.when(tx < width):
                self._main(t, u, tx, ty, tx)
                following = (u + 1) % self.shape.sets
                self._prepare(t + 1, following, tx, ty)
                self._load(t + 1 + self.shape.ahead, following, tx, ty)
            return
        with T.serial(0, tirx.truncdiv(width + (threads - 1), int32(threads))) as tile:
            l = tile * threads + tx
            with k.when(l < width):
                for row, common in enumerate(self.alike):
                    with k.when(ty == row):
                        self._flags(common, tx, ty, l)
                self._load(t, 0, tx, ty, l)
                self._prepare(t, 0, tx, ty)
                self._main(t, u, tx, ty, l)

    # What a thread keeps of its scan.

    def _place(self, common: Common, lag: Expr, tx: Expr, ty: Expr) -> None:
        scan = common.scan
        self._set("width", scan.width, tx, ty)
        self._set("steps", scan.steps, tx, ty)
        self._set("lag", lag, tx, ty)
        own = tx.astype("int64") if self.shape.ahead else int64(0)
        along, beside = _pitches(scan, scan.sizes[max(scan.axis, scan.line)])
        forward = -along if scan.reverse else along
        self._set("forward", forward, tx, ty, "int64")
        self._set("beside", beside, tx, ty, "int64")
        for i, read in enumerate(common.loads):
            start = self._start(scan, read, own)
            if common.moves(read):
                self._set(f"base{i}", start, tx, ty, "int64")
            else:
                T.buffer_store(self.registers.of(f"value{i}"), self._flat(read)[start].astype(CARRY), [ty, tx])
        for i, (output, _) in enumerate(common.outputs):
            if output.tensor.op.name not in self.summed:
                self._set(f"out{i}", self._start(scan, output, own), tx, ty, "int64")
        if self.sums is not None:
            # Word of a plane of sums, and its row in the band.
            along, beside = _pitches(scan, self.sums.pitch)
            first = int64(self.sums.number[scan.axis]) * self.sums.rows * self.sums.pitch - self.sums.low * self.sums.pitch
            self._set("word", first + own * beside + (along * (scan.steps - 1) if scan.reverse else 0), tx, ty)
            self._set("words", -along if scan.reverse else along, tx, ty)
            self._set("besides", beside, tx, ty)
            walks_rows = scan.axis < scan.line
            start = (scan.steps - 1 if scan.reverse else int64(0)) if walks_rows else own
            self._set("row", start - self.sums.low, tx, ty)
            self._set("rows", int64((-1 if scan.reverse else 1) if walks_rows else 0), tx, ty)
            self._set("rows_beside", int64(0 if walks_rows else 1), tx, ty)
        if scan.chunk and scan.from_end:
            short = tirx.truncmod(scan.steps, int64(scan.chunk))
            self._set("shift", tirx.truncmod(scan.chunk - short, int64(scan.chunk)), tx, ty)
        if self.shape.ahead:
            self._flags(common, tx, ty, tx)

    def _flags(self, common: Common, tx: Expr, ty: Expr, l: Expr) -> None:
        """Which conditions hold at a place on the line; a condition on the walk would change from step to step."""
        at = {**self.fixed, common.scan.axis: int64(0), common.scan.line: l.astype("int64")}
        here = {v: at[a].astype("int64") for a, v in enumerate(common.at)}
        for i, condition in enumerate(common.flags):
            T.buffer_store(self.registers.of(f"flag{i}", "int32"), bound(condition, here).astype("int32"), [ty, tx])

    def _start(self, scan: Scan, end: Read | Output, own: Expr) -> Expr:
        """The flat index of an element at the first step."""
        first = scan.steps - 1 if scan.reverse else int64(0)
        at = {**self.fixed, scan.axis: first, scan.line: own}
        total: Expr = int64(0)
        for i, size in zip(end.index([at[a].astype("int64") for a in range(len(scan.sizes))]), end.tensor.shape, strict=True):
            total = total * size + i
        home = self.buffers[end.tensor.op.name]
        return total + home.offset if isinstance(home, Room) else total

    def _set(self, name: str, number: Size, tx: Expr, ty: Expr, kind: str = "int32") -> None:
        T.buffer_store(self.registers.of(name, kind), tirx.Cast(kind, number) if kind != "int64" else number, [ty, tx])

    def _at(self, name: str, tx: Expr, ty: Expr, kind: str = "int32") -> Expr:
        return self.registers.of(name, kind)[ty, tx]

    # The three parts of a step.

    def _main(self, t: Expr, u: int, tx: Expr, ty: Expr, l: Expr) -> None:
        common, scan = self.common, self.common.scan
        before, now = self.lines[(u + 1) % 2], self.lines[u % 2]
        carry = self.registers.of("carry")
        with k.when(self._exists(t, tx, ty)):
            total: Expr = tirx.const(0.0, CARRY)
            for i, (term, weight) in enumerate(zip(scan.terms, common.weights, strict=True)):
                beside = [ty, l + (term.offset + 1)]
                product = before[i][*beside] if common.pushed else self._value(weight, tx, ty) * before[0][*beside]
                total = product if isinstance(total, tirx.FloatImm) else total + product
            carried = T.if_then_else(self._earlier(t, tx, ty), total, tirx.const(0.0, CARRY))
            T.buffer_store(carry, self._value(common.source, tx, ty) + carried, [ty, tx])
            if common.pushed:
                for line, weight in zip(now, common.weights, strict=True):
                    T.buffer_store(line, self._value(weight, tx, ty) * carry[ty, tx], [ty, l + 1])
            else:
                T.buffer_store(now[0], carry[ty, tx], [ty, l + 1])
            for i, (output, expr) in enumerate(common.outputs):
                result = self._value(expr, tx, ty)
                if output.tensor.op.name in self.summed:
                    self._add(result, t, tx, ty, l)
                else:
                    at = self._moved(f"out{i}", t, tx, ty, l)
                    T.buffer_store(self._flat(output), result.astype(output.tensor.dtype), [at])

    def _add(self, result: Expr, t: Expr, tx: Expr, ty: Expr, l: Expr) -> None:
        assert self.sums is not None
        row = self._at("row", tx, ty) + t * self._at("rows", tx, ty)
        word = self._at("word", tx, ty) + t * self._at("words", tx, ty)
        if not self.shape.ahead:
            row = row + l * self._at("rows_beside", tx, ty)
            word = word + l * self._at("besides", tx, ty)
        with k.when(tirx.all(row >= 0, row < self.sums.rows.astype("int32"))):
            T.buffer_store(self.sums.buffer, self.sums.buffer[word] + result, [word])

    def _prepare(self, t: Expr, of: int, tx: Expr, ty: Expr) -> None:
        common = self.common
        with k.when(self._exists(t, tx, ty)):
            for i, read in enumerate(common.loads):
                if common.moves(read):
                    raw = self.registers.of(f"raw{of}.{i}", str(read.tensor.dtype))[ty, tx]
                    T.buffer_store(self.registers.of(f"value{i}"), raw.astype(CARRY), [ty, tx])
            for made in common.early:
                T.buffer_store(self.registers.of(f"value{made.number}"), self._value(made.expr, tx, ty), [ty, tx])

    def _load(self, t: Expr, into: int, tx: Expr, ty: Expr, l: Expr | None = None) -> None:
        common = self.common
        with k.when(self._exists(t, tx, ty)):
            for i, read in enumerate(common.loads):
                if common.moves(read):
                    raw = self.registers.of(f"raw{into}.{i}", str(read.tensor.dtype))
                    T.buffer_store(raw, self._flat(read)[self._moved(f"base{i}", t, tx, ty, l)], [ty, tx])

    def _moved(self, base: str, t: Expr, tx: Expr, ty: Expr, l: Expr | None) -> Expr:
        """The flat index `t` steps from a base; where threads stride over the line, at `l` on it."""
        at = self._at(base, tx, ty, "int64") + t.astype("int64") * self._at("forward", tx, ty, "int64")
        return at if self.shape.ahead or l is None else at + l.astype("int64") * self._at("beside", tx, ty, "int64")

    def _exists(self, t: Expr, tx: Expr, ty: Expr) -> Expr:
        inside = t < self._at("steps", tx, ty)
        return tirx.all(t >= 0, inside) if any(constant(lag) != 0 for lag in self.lags) else inside

    def _earlier(self, t: Expr, tx: Expr, ty: Expr) -> Expr:
        """Whether something is carried into a step."""
        scan = self.common.scan
        if not scan.chunk:
            return t != 0
        counted = t + self._at("shift", tx, ty) if scan.from_end else t
        return tirx.all(t != 0, tirx.truncmod(counted, int32(scan.chunk)) != 0)

    def _value(self, expr: Expr, tx: Expr, ty: Expr) -> Expr:
        common = self.common
        numbers = [*range(len(common.loads)), *(m.number for m in common.early)]
        held = {value(i): self.registers.of(f"value{i}")[ty, tx] for i in numbers}
        held |= {flag(i): self.registers.of(f"flag{i}", "int32")[ty, tx] != 0 for i in range(len(common.flags))}
        return bound(expr, {**held, CARRIED: self.registers.of("carry")[ty, tx]})

    def _flat(self, end: Read | Output) -> tirx.Var:
        tensor: te.Tensor = end.tensor
        home = self.buffers[tensor.op.name]
        if isinstance(home, Room):
            return home.flat
        return T.decl_buffer((k.product(tensor.shape),), str(tensor.dtype), data=home.data)


def _pitches(scan: Scan, row: Size) -> tuple[Expr, Expr]:
    """Elements from step to step and from place to place on the line, in a plane whose rows are `row` elements apart."""
    return (row, int64(1)) if scan.axis < scan.line else (int64(1), row)


def in_plane(scan: Scan, end: Read | Output) -> bool:
    """Whether the last two dimensions of a tensor are walk and line, in the order of the space."""
    at = [tirx.Var(name, "int64") for name in scan.space]
    *others, row, column = end.index(at) if len(end.tensor.shape) > 1 else (int64(0), int64(0))
    first, last = sorted((scan.axis, scan.line))
    for axis, index in ((first, row), (last, column)):
        alone = constant(scan.sizes[axis]) == 1 and ex.is_const(index, 0)  # an axis of one place, whose index is known
        if not (at[axis].same_as(index) or alone):
            return False
    return not any(ex.depends(e, at[a]) for e in others for a in (first, last))
