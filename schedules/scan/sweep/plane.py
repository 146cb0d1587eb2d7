"""A block per plane: all scans of a sweep walk it side by side, each with its own row of threads, and add up on the core.

What several scans write to one place is summed in shared memory as float32 and written, rounded once, when all have walked.
Two scans that walk one axis from both ends share a plane of sums. They meet where the walk is half over, never at one step:
where the number of steps is odd the second starts one step later. Scans along the other axis have a plane of their own,
so that every sum is (a + b) + (c + d), the same in every run.

A plane too large for shared memory is cut into bands of rows, each with a block that walks everything: right, and slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import int64
from treadle.schedules.scan.sweep.alike import Common, rounds
from treadle.schedules.scan.sweep.walk import Buffers, Registers, Round, Shape, Sums

Scans = tuple[Scan, ...]


def summed(scans: Scans) -> list[te.Tensor]:
    """What more than one scan writes."""
    written = {o.tensor.op.name: o.tensor for s in scans for o in s.outputs}
    counts = [o.tensor.op.name for s in scans for o in s.outputs]
    return [t for name, t in written.items() if counts.count(name) > 1]


def axes(scans: Scans) -> dict[int, int]:
    """The number of the plane of sums of each axis walked; none where nothing is summed."""
    return {axis: i for i, axis in enumerate(sorted({s.axis for s in scans}))} if summed(scans) else {}


def rounded(size: Expr) -> Expr:
    """Bytes of an Arena's piece of so many float32."""
    return tirx.floordiv(size * 4 + 15, 16) * 16


def line_bytes(scans: Scans) -> Expr:
    return 2 * _carried(scans) * rounded(_most(scans) * _line(scans))


def _carried(scans: Scans) -> int:
    """Lines for what a step carries to the next."""
    return max(len(s.terms) if Common(s).pushed else 1 for s in scans)


def _most(scans: Scans) -> int:
    """Rows of threads: scans walked side by side."""
    return max(map(len, rounds(scans)))


def _line(scans: Scans) -> Expr:
    """Words of a carry line, one place beyond either end included."""
    longest: Expr = int64(0)
    for scan in scans:
        longest = tirx.max(longest, scan.width)
    return longest + 2


def pitch(width: Size) -> Expr:
    """An odd number of words from row to row: a column of the plane lies in different banks."""
    return tirx.bitwise_or(width, int64(1))


def band_of(scans: Scans, limit: int) -> tuple[Expr, Expr]:
    """Rows of a band, and how many bands a plane has."""
    planes = len(axes(scans))
    if not planes:
        return int64(0), int64(1)
    height, width = _plane(scans)
    room = tirx.floordiv(limit - 16 - line_bytes(scans), pitch(width) * (4 * planes))
    rows = tirx.max(tirx.min(room, height), int64(1))
    return rows, tirx.floordiv(height + rows - 1, rows)


def _plane(scans: Scans) -> tuple[Size, Size]:
    scan = scans[0]
    first, last = sorted((scan.axis, scan.line))
    return scan.sizes[first], scan.sizes[last]


def fits(scans: Scans, limit: int) -> Expr:
    """Whether carry lines and at least one row of sums have room in shared memory."""
    planes = len(axes(scans))
    return line_bytes(scans) + rounded(pitch(_plane(scans)[1]) * planes) + 16 <= limit


def emit(scans: Scans, buffers: Buffers, shape: Shape, limit: int) -> None:
    """One kernel."""
    scan = scans[0]
    outer, inner = k.independent(scan)
    rows, bands = band_of(scans, limit)
    n, c = scan.sizes[outer], scan.sizes[inner]
    with (
        T.thread_binding(int64(0), n * c * bands, thread="blockIdx.x") as block,
        # Else the assembler spills a register or two for the sake of a second block.
        T.attr(int64(0), "tirx.launch_bounds_min_blocks_per_sm", tirx.const(1, "int32")),
    ):
        band, number = tirx.truncmod(block, bands), tirx.truncdiv(block, bands)
        at = {outer: tirx.truncdiv(number, c), inner: tirx.truncmod(number, c)}
        Plane(scans, buffers, shape, at, band * rows, rows).emit()


class Plane:
    """The threads of a block; `low` is the first row of its band, `rows` how many it has at most."""

    def __init__(
        self, scans: Scans, buffers: Buffers, shape: Shape, at: dict[int, Expr], low: Expr, rows: Expr
    ) -> None:  # fmt: skip
        self.scan, self.buffers, self.shape, self.at = scans[0], buffers, shape, at
        self.low, self.rows, self.summed, self.high = low, rows, summed(scans), _most(scans)
        self.height, self.width = _plane(scans)
        self.pitch = pitch(self.width)
        number = axes(scans)
        words = [((int64(len(number)) * rows * self.pitch,), CARRY)] if number else []
        line = ((int64(self.high), _line(scans)), CARRY)
        carried = _carried(scans)
        pieces = k.Arena([*([line] * (2 * carried)), *words]).buffers
        lines, planes = (pieces[:carried], pieces[carried : 2 * carried]), pieces[2 * carried :]
        self.sums = Sums(planes[0], number, low, rows, self.pitch) if number else None
        registers = Registers(self.high, shape.threads)
        names = {t.op.name for t in self.summed}
        self.rounds = [
            Round(alike, _lags(alike), buffers, shape, registers, at, lines, self.sums, names)
            for alike in rounds(scans)
        ]

    def emit(self) -> None:
        for number, walked in enumerate(self.rounds):
            with self._threads() as (tx, ty):
                if number == 0:
                    self._clear(tx, ty)
                with self._rows(walked, ty):
                    walked.begin(tx, ty)
            k.barrier()
            unroll = self.shape.unroll
            with T.serial(0, tirx.truncdiv(walked.steps + (unroll - 1), tirx.const(unroll, "int32"))) as turn:
                for u in range(unroll):
                    with self._threads() as (tx, ty), self._rows(walked, ty):
                        walked.step(turn * unroll + u, u, tx, ty)
                    k.barrier()
        if self.sums is not None:
            with self._threads() as (tx, ty):
                self._write(tx, ty)

    def _threads(self) -> AbstractContextManager[tuple[Expr, Expr]]:
        return k.phase(self.shape.threads, self.high)

    @contextmanager
    def _rows(self, walked: Round, ty: Expr) -> Iterator[None]:
        """The rows of threads that a round has scans for."""
        with ExitStack() as open_:
            if len(walked.alike) < self.high:
                open_.enter_context(k.when(ty < len(walked.alike)))
            yield

    def _clear(self, tx: Expr, ty: Expr) -> None:
        if self.sums is None:
            return
        zero, planes = tirx.const(0.0, CARRY), len(self.sums.number)
        with T.serial(int64(0), tirx.truncdiv(planes * self.rows + (self.high - 1), int64(self.high))) as i:
            row = i * self.high + ty
            with T.serial(int64(0), tirx.truncdiv(self.pitch + (self.shape.threads - 1), int64(self.shape.threads))) as j:
                column = j * self.shape.threads + tx
                with k.when(tirx.all(row < planes * self.rows, column < self.pitch)):
                    T.buffer_store(self.sums.buffer, zero, [row * self.pitch + column])

    def _write(self, tx: Expr, ty: Expr) -> None:
        """The band to memory, rounded: a row of threads takes a row, consecutive threads consecutive columns."""
        assert self.sums is not None
        rows = tirx.min(self.rows, self.height - self.low)
        first, last = sorted((self.scan.axis, self.scan.line))
        with T.serial(int64(0), tirx.truncdiv(rows + (self.high - 1), int64(self.high))) as i:
            row = i * self.high + ty
            with T.serial(int64(0), tirx.truncdiv(self.width + (self.shape.threads - 1), int64(self.shape.threads))) as j:
                column = j * self.shape.threads + tx
                with k.when(tirx.all(row < rows, column < self.width)):
                    parts = [self.sums.buffer[(n * self.rows + row) * self.pitch + column] for n in self.sums.number.values()]
                    at = {**self.at, first: self.low + row, last: column}
                    for tensor in self.summed:
                        index = [at[a] for a in range(len(self.scan.sizes))]
                        T.buffer_store(self.buffers[tensor.op.name], sum(parts[1:], parts[0]).astype(tensor.dtype), index)


def _lags(alike: list[Common]) -> list[Expr]:
    """The second of two scans along one axis starts late where they would meet at a step."""
    found: list[Expr] = []
    for i, common in enumerate(alike):
        second = any(c.scan.axis == common.scan.axis for c in alike[:i])
        found.append(tirx.truncmod(common.scan.steps, int64(2)) if second else int64(0))
    return found
