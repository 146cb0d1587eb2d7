"""Lines across the contiguous axis (l2r, r2l): tiles of a few columns, turned into lines on the way in and back on the way out.

Exploits: walked plainly, a step touches one element of every row, a cache line for four bytes, and cannot be vectorised. A
tile of 32 float32 columns is two whole cache lines of each row; transposed into staging lines that stay in L2, its steps are
the steps of a scan along the contiguous axis. What remains of the price is the order in which memory is read: two lines of
every row, a row's pitch apart, which no hardware prefetcher foresees. So gathering asks for rows ahead, into L2 and not L1:
at a power-of-two pitch the rows meet in a few sets of L1, and misses of L1 are few at a time.

Learned at 4x64x256x256 fp32 (AMD EPYC Zen 4, 2 cores, 2026-11-24): asking into L1 21.7 ms, into L2 18.5; 16 columns 21.5
(every second line of a pair is fetched twice); asking for the whole next tile 25, its lines fall out of L2 again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Index, Output, Read, Scan
from treadle.schedules.cpu import scan_common as common
from treadle.schedules.cpu import scan_tasks, streaming
from treadle.schedules.cpu.scan_common import PAD, Cell, Line, Step
from treadle.schedules.cpu.scan_tasks import Task
from treadle.schedules.space import knob
from treadle.schedules.target import Target


@dataclass(frozen=True)
class Knobs:
    columns: int = knob(32, (16, 32), "steps per tile; 32 float32 columns are a pair of cache lines of each row")
    together: int = knob(4, (1, 2, 4), "positions sharing a gate tile that are walked together, so that it is staged once")
    stream: int = streaming.KNOB
    ahead: int = knob(32, (0, 32, 64), "rows of a tile asked for before they are gathered: they are a pitch apart")


def applies(program: Program) -> bool:
    """Every tensor must run along the walk in its contiguous dimension, and along the line in another."""
    scan = program.scan
    if scan is None or scan.axis != len(scan.sizes) - 1 or scan.init is not None or scan.flush is not None:
        return False
    indices = [t.index for t in (*common.used_reads(scan).values(), *scan.outputs)]
    return all(common.runs_along(scan, i, scan.axis) and _line_dim(scan, i) is not None for i in indices)


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    assert program.scan is not None
    return common.refusals(program.scan)


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    return scan_tasks.parallel(program, target, point.together, lambda task: _Walk(task, point).emit())


class _Walk:
    """One task: a few independent positions walked tile by tile, all of them through one tile before the next."""

    def __init__(self, task: Task, point: Knobs) -> None:
        scan = task.scan
        self.task, self.scan, self.point = task, scan, point
        self.cut = Line(scan, task.lanes, max(PAD, task.lanes))
        # Padded, and so never a power of two apart, which would put a tile's lines into the same sets of L1.
        self.pitch = scan.width + 2 * PAD
        self.carry = T.alloc_buffer((task.group, 2, self.pitch), CARRY)
        # One staging tile per stream that is read, and one per output.
        self.reads = {name: group[0] for name, group in common.streams(scan).items()}
        self.staged = {name: self._stage() for name in self.reads}
        self.results = [self._stage() for _ in scan.outputs]

    def emit(self) -> None:
        scan, columns = self.scan, self.point.columns
        with T.serial(0, tirx.ceildiv(scan.steps, columns)) as tile, T.serial(0, self.task.members) as m:
            for key, read in self.reads.items():
                if read.shared and self.task.grouped is not None:
                    with T.If(m == 0), T.Then():
                        self._gather(key, read, tile, m)
                else:
                    self._gather(key, read, tile, m)
            with T.serial(0, tirx.min(columns, scan.steps - tile * columns)) as i:
                step = tile * columns + i
                self._step(step, tile, m)
            for output, result in zip(scan.outputs, self.results, strict=True):
                if output.shared:
                    with T.If(m == self.task.members - 1), T.Then():
                        self._scatter(output, result, tile, m)
                else:
                    self._scatter(output, result, tile, m)
        streaming.fence()

    def _step(self, step: Expr, tile: Expr, m: Expr) -> None:
        row = self.scan.time(step) - self._start(tile, 0)

        def load(read: Read, j: Expr) -> Expr:
            back = self.scan.time(step - read.back) - self._start(tile, read.back)
            return self.staged[common.stream_of(self.scan, read)][self._line(back) + j + read.shift]

        def cell(at: Cell) -> None:
            carried = lambda offset: self.carry[m, (step + 1) % 2, PAD + at.position + offset]  # noqa: E731
            here = [m, step % 2, PAD + at.position]
            T.buffer_store(self.carry, at.carry(carried), here)
            for output, result in zip(self.scan.outputs, self.results, strict=True):
                value = at.value(output.value, self.carry[*here])
                if output.shared:
                    value = tirx.Select(m == 0, value, result[self._line(row) + at.position] + value)
                T.buffer_store(result, value, [self._line(row) + at.position])

        self.cut.emit(Step.of(self.scan, step), load, cell)

    def _gather(self, key: str, read: Read, tile: Expr, m: Expr) -> None:
        at, row, columns = self._clip(tile, read.back)
        source, pitch = self._memory(read.tensor, read.index, at, m)
        following = -self.point.columns if self.scan.reverse else self.point.columns
        hints = tirx.const(following, "int64"), tirx.const(self.point.ahead, "int64")
        arguments = T.address_of(self.staged[key][self._line(row)]), self.pitch, source, pitch, self.scan.width, columns
        T.evaluate(T.call_extern("int32", f"treadle_gather_{read.tensor.dtype}", *arguments, *hints))

    def _scatter(self, output: Output, result: tirx.Var, tile: Expr, m: Expr) -> None:
        at, row, columns = self._clip(tile, 0)
        target, pitch = self._memory(output.tensor, output.index, at, m)
        arguments = target, pitch, T.address_of(result[self._line(row)]), self.pitch, self.scan.width, columns
        large = tirx.Select(streaming.pays(output.tensor, self.point.stream), T.int32(1), T.int32(0))
        T.evaluate(T.call_extern("int32", f"treadle_scatter_{output.tensor.dtype}", *arguments, large))

    def _memory(self, tensor, index: Index, time: Expr, m: Expr) -> tuple[Expr, Expr]:  # type: ignore[no-untyped-def]
        """The address of a tile's first element, and the elements from one of its rows to the next."""
        where = index(self.task.position(m, time, tirx.const(0, "int64")))
        dim = _line_dim(self.scan, index)
        assert dim is not None
        return T.address_of(self.task.buffers[tensor.op.name][*where]), scan_tasks.product(tensor.shape[dim + 1 :])

    def _start(self, tile: Expr, back: int) -> Expr:
        """The lowest index along the walk among a tile's steps, each taken `back` steps earlier."""
        first = tile * self.point.columns - back
        return self.scan.steps - self.point.columns - first if self.scan.reverse else first

    def _clip(self, tile: Expr, back: int) -> tuple[Expr, Expr, Expr]:
        """The part of a tile that exists: its index along the walk, its first staging line, its columns."""
        start, zero = self._start(tile, back), tirx.const(0, "int64")
        low = tirx.max(start, zero)
        high = tirx.min(start + self.point.columns, self.scan.steps)
        return tirx.min(low, self.scan.steps - 1), low - start, tirx.max(high - low, zero)

    def _stage(self) -> tirx.Var:
        return T.alloc_buffer((self.point.columns * self.pitch,), CARRY)

    def _line(self, row: Expr) -> Expr:
        """Where a staging line starts."""
        return row * self.pitch + PAD


def _line_dim(scan: Scan, index: Index) -> int | None:
    """The dimension that an index follows along the line, if it is one and by itself."""
    position: Sequence[Expr] = [tirx.Var(name, "int64") for name in scan.space]
    where, line = index(position), position[scan.line]
    found = [d for d, e in enumerate(where) if ex.depends(e, line)]
    return found[0] if len(found) == 1 and where[found[0]].same_as(line) else None
