"""What follows from the states of both walks, pixel by pixel: no pixel waits for another.

A thread has a pixel and all scans of it. Where several channels share elements it walks through them in order, adds up in
float32 what is theirs together, and takes it further (to the gradients of logits) once. What all pixels of a plane share is
added up by a block per plane in float64, each thread its pixels in order, the threads in a tree: one order in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import ir, sym, tirx
from tvm.tirx.script import builder as T

from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read, Scan
from treadle.schedules.cpu.sweep_cell import Cell
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import int64
from treadle.schedules.scan.step import ends, step_of
from treadle.schedules.scan.sweep.walk import Buffers, Room

#: An output and what it is given.
Given = tuple[Output, Expr]
THREADS = 256
WHOLE = "float64"


def of_plane(cell: Cell, output: Output) -> bool:
    """Whether all positions of a plane write one element, which is the sum of what they write."""
    moved = (cell.scan.axis, cell.scan.line)
    return not any(ex.depends(i, cell.at[a]) for i in output.index(cell.at) for a in moved)


def place(cell: Cell, end: Read | Output) -> str:
    """Names the element that a read or an output has at a position."""
    analyzer = sym.Analyzer()
    for v, size in zip(cell.at, cell.scan.sizes, strict=True):
        analyzer.bind(v, ir.Range.from_min_extent(int64(0), size))
    index = [i if isinstance(i, int) else analyzer.simplify(i) for i in end.index(cell.at)]
    return f"{end.tensor.op.name}{[int(i) if isinstance(i, (int, tirx.IntImm)) else str(i) for i in index]}"


def parted(cell: Cell) -> tuple[list[Given], list[Given]]:
    """Outputs of each channel, and those that follow once all channels of a pixel are known."""
    each, last = [], list(cell.after)
    for output, value in cell.outputs:
        (last if output.shared and not cell.inner(output) else each).append((output, value))
    return each, last


def refusals(scans: Sequence[Scan]) -> list[str]:
    reasons = []
    for cell in map(Cell, scans):
        each, last = parted(cell)
        early = [(o, e) for o, e in each if any(ex.depends(e, m.var) for m in (*cell.early, *cell.late))]
        late = [(o, e) for o, e in last if ex.depends(e, cell.scan.carry)]
        reasons += [f"{o.tensor.op.name} needs scalars that are made 1 time for all channels, after them" for o, _ in early]
        reasons += [f"{o.tensor.op.name} needs the carry of 1 channel, after all of them" for o, _ in late]
    return reasons


@dataclass
class _Pixel:
    """One scan at the pixel of a thread. `carries` is its walk's carry; what its reads beside the step need is guarded."""

    cell: Cell
    buffers: Buffers
    carries: Room
    tx: Expr

    def __post_init__(self) -> None:
        self.held: dict[tirx.Var, Expr] = {}
        self.each, self.last = parted(self.cell)
        self.inner = {place(self.cell, o): self._register() for o, _ in self.each if self.cell.inner(o)}

    def _register(self, kind: str = CARRY) -> tirx.Var:
        return T.sblock_alloc_buffer((THREADS, 1), kind, scope="local")

    def begin(self) -> None:
        for sum_ in self.inner.values():
            T.buffer_store(sum_, tirx.const(0.0, CARRY), [self.tx, 0])

    def load(self, at: dict[int, Expr], exprs: Sequence[Expr]) -> None:
        """Into registers, what some expressions read of memory."""
        for var, read in self.cell.read_by(*exprs).items():
            if place(self.cell, read) not in self.inner:
                self._hold(var, self._loaded(read, at))
        if any(ex.depends(e, self.cell.scan.carry) for e in exprs):
            self._hold(self.cell.scan.carry, self._kept(self.carries, at))

    def _hold(self, var: tirx.Var, value: Expr) -> None:
        if var not in self.held:
            register = self._register()
            self.held[var] = register[self.tx, 0]
            T.buffer_store(register, value, [self.tx, 0])

    def value(self, expr: Expr, at: dict[int, Expr]) -> Expr:
        bound = {v: e for v, e in self.held.items() if ex.depends(expr, v)}
        for var, read in self.cell.read_by(expr).items():
            if (name := place(self.cell, read)) in self.inner:
                bound[var] = self.inner[name][self.tx, 0]
        return ex.substitute(expr, {**bound, **{v: at[a] for a, v in enumerate(self.cell.at)}})

    def after(self, at: dict[int, Expr]) -> None:
        """What follows from the sums over the channels of a pixel."""
        for made in (*self.cell.early, *self.cell.late):
            self.load(at, [made.expr])
            self._hold(made.var, self.value(made.expr, at))
        for output, expr in self.last:
            self.load(at, [expr])
            index = output.index([at[a] for a in range(len(at))])
            T.buffer_store(self.buffers[output.tensor.op.name], self.value(expr, at).astype(output.tensor.dtype), list(index))

    def _loaded(self, read: Read, at: dict[int, Expr]) -> Expr:
        scan, home = self.cell.scan, self.buffers[read.tensor.op.name]
        if not isinstance(home, Room):
            return home[*read.index([at[a] for a in range(len(at))])].astype(CARRY)
        step = scan.time(at[scan.axis])  # the walk is its own inverse: step and index are mirrored, or the same
        there = {**at, scan.axis: scan.time(step - read.back), scan.line: at[scan.line] + read.shift}
        guards = [step_of(scan, step).later] if read.back else []
        beside = ends(at[scan.line], scan.width)(read.shift) if read.shift else None
        needed = [*guards, *([beside] if beside is not None else [])]
        state = self._kept(home, there)
        return T.if_then_else(tirx.all(*needed), state, tirx.const(0.0, CARRY)) if needed else state

    def _kept(self, home: Room, at: dict[int, Expr]) -> Expr:
        total: Expr = int64(0)
        for a, size in enumerate(self.cell.scan.sizes):
            total = total * size + at[a]
        return home.flat[home.offset + total]


def emit(scans: Sequence[Scan], carries: Sequence[Room], buffers: Buffers, together: bool) -> None:
    """Every output of a pixel. `together`: a thread has all the channels of its pixel, else a single one."""
    scan = scans[0]
    outer, inner = k.independent(scan)
    first, last = sorted((scan.axis, scan.line))
    pixels = scan.sizes[first] * scan.sizes[last]
    channels, planes = (scan.sizes[inner], scan.sizes[outer]) if together else (int64(1), scan.sizes[outer] * scan.sizes[inner])
    pieces = tirx.truncdiv(pixels + (THREADS - 1), int64(THREADS))
    with T.thread_binding(int64(0), planes * pieces, thread="blockIdx.x") as block, k.phase(THREADS) as (tx, _):
        plane, pixel = tirx.truncdiv(block, pieces), tirx.truncmod(block, pieces) * THREADS + tx
        with k.when(pixel < pixels):
            row, column = tirx.truncdiv(pixel, scan.sizes[last]), tirx.truncmod(pixel, scan.sizes[last])
            n = plane if together else tirx.truncdiv(plane, scan.sizes[inner])
            at = {outer: n, inner: int64(0), first: row, last: column}
            here = [_Pixel(Cell(s), buffers, room, tx) for s, room in zip(scans, carries, strict=True)]
            for one in here:
                one.begin()
            with T.serial(int64(0), channels) as c:
                own = {**at, inner: c if together else tirx.truncmod(plane, scan.sizes[inner])}
                _channel(here, own, buffers)
            for one in here:
                one.held = {}
                one.after({**at, inner: int64(0) if together else tirx.truncmod(plane, scan.sizes[inner])})


def _channel(here: Sequence[_Pixel], at: dict[int, Expr], buffers: Buffers) -> None:
    """One channel of a pixel: what the scans write to one place is added up in their order."""
    writers: dict[str, list[tuple[_Pixel, Output, Expr]]] = {}
    for one in here:
        for output, value in one.each:
            if not of_plane(one.cell, output):
                writers.setdefault(place(one.cell, output), []).append((one, output, value))
    for parts in writers.values():
        total: Expr | None = None
        for one, output, expr in parts:
            one.load(at, [expr])
            value = one.value(expr, at)
            if one.cell.inner(output):
                sum_ = one.inner[place(one.cell, output)]
                T.buffer_store(sum_, sum_[one.tx, 0] + value, [one.tx, 0])
            else:
                total = value if total is None else total + value
        if total is not None:
            output = parts[0][1]
            index = output.index([at[a] for a in range(len(at))])
            T.buffer_store(buffers[output.tensor.op.name], total.astype(output.tensor.dtype), list(index))


def emit_sums(scans: Sequence[Scan], carries: Sequence[Room], buffers: Buffers) -> None:
    """The outputs that all pixels of a plane share: a block per plane and scan."""
    wanted = [(s, room) for s, room in zip(scans, carries, strict=True) if any(of_plane(Cell(s), o) for o in s.outputs)]
    for scan, room in wanted:
        _sum(scan, room, buffers)


def _sum(scan: Scan, room: Room, buffers: Buffers) -> None:
    outer, inner = k.independent(scan)
    first, last = sorted((scan.axis, scan.line))
    pixels = scan.sizes[first] * scan.sizes[last]
    cell = Cell(scan)
    outputs = [(o, e) for o, e in cell.outputs if of_plane(cell, o)]
    with T.thread_binding(int64(0), scan.sizes[outer] * scan.sizes[inner], thread="blockIdx.x") as block:
        at = {outer: tirx.truncdiv(block, scan.sizes[inner]), inner: tirx.truncmod(block, scan.sizes[inner])}
        parts = [T.sblock_alloc_buffer((THREADS,), WHOLE, scope="shared") for _ in outputs]
        own = [T.sblock_alloc_buffer((THREADS, 1), WHOLE, scope="local") for _ in outputs]
        with k.phase(THREADS) as (tx, _):
            for sum_ in own:
                T.buffer_store(sum_, tirx.const(0.0, WHOLE), [tx, 0])
            with T.serial(int64(0), tirx.truncdiv(pixels + (THREADS - 1), int64(THREADS))) as i:
                pixel = i * THREADS + tx
                with k.when(pixel < pixels):
                    row, column = tirx.truncdiv(pixel, scan.sizes[last]), tirx.truncmod(pixel, scan.sizes[last])
                    one, here = _Pixel(cell, buffers, room, tx), {**at, first: row, last: column}
                    for sum_, (_, expr) in zip(own, outputs, strict=True):
                        one.load(here, [expr])
                        T.buffer_store(sum_, sum_[tx, 0] + one.value(expr, here).astype(WHOLE), [tx, 0])
            for sum_, part in zip(own, parts, strict=True):
                T.buffer_store(part, sum_[tx, 0], [tx])
        k.barrier()
        half = THREADS // 2
        while half:
            with k.phase(THREADS) as (tx, _), k.when(tx < half):
                for part in parts:
                    T.buffer_store(part, part[tx] + part[tx + half], [tx])
            k.barrier()
            half //= 2
        with k.phase(THREADS) as (tx, _), k.when(tx == 0):
            for part, (output, _) in zip(parts, outputs, strict=True):
                index = output.index([{**at, first: int64(0), last: int64(0)}[a] for a in range(len(scan.sizes))])
                T.buffer_store(buffers[output.tensor.op.name], part[0].astype(output.tensor.dtype), list(index))
