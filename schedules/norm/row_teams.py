"""Row teams: a block of rows to a thread block, a team of threads to a row. For the Programs of schedules/row_family.py.

Sums along the rows, then the results from a second walk over the same rows. Moves:

1. *two walks*: the first adds up, the second computes; the rows of a block, at most some 100 KB, are read from L1 or L2 the
   second time, so their bytes cross the bus once and no row length has to be known.
2. *16-byte accesses* where rows are multiples of 16 bytes (known, or asked once by a branch that the whole grid takes
   together), otherwise neighbouring lanes take neighbouring elements.
3. *sum through shared memory* in phases: every thread publishes, some add up what a team published, and every thread reads
   its row's total as a broadcast.
4. *parts in registers*: in the backward a thread owns columns and walks down the block's rows, so that it adds up the
   gradient of its weights in registers, and a block writes its part once.

Floor: operands read once, results written once; a part of 16 rows adds 1/24 in bf16 to the backward's bytes. Predicted: 80 to
90 % of copy bandwidth; nothing was timed.

Compiler (sm_90a, nvcc 13.0, 2026-11-24), unknown sizes, fp32 and bf16: 32 to 45 registers forward, 64 to 111 and 32,896 bytes
of shared memory backward; no spills; every access of the wide path is 16 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.expr import Expr
from treadle.schedules import cuda_moves as moves
from treadle.schedules.emit import Function
from treadle.schedules.row_family import Rows, applies
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

SERIAL = True
#: Of what a team published, so many threads first add up their share.
THINNED = 16


@dataclass(frozen=True)
class Knobs:
    across: int = knob(256, (16, 32, 64, 128, 256, 512, 1024), "threads to a row: a divisor of its accesses, or lanes idle")
    rows: int = knob(1, (1, 2, 4, 8, 16), "rows to a block at a time: narrow rows would leave it with too few threads")
    access: int = knob(16, (2, 4, 8, 16), "bytes of one access")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    rows = Rows.of(program)
    lanes = moves.elements_of(point.access, program.dtype)
    reasons = moves.access_refusals(program, point.access) + moves.Teams(point.across, point.rows).refusals()
    if lanes > 1 and moves.never_divides(lanes, rows.size):
        reasons.append(f"rows of {dm.text(rows.size)} elements are no multiple of the {lanes} of one access")
    if rows.parts and point.rows > 1:
        reasons.append("the gradient of a weight is added up by the one thread that owns its column: one row at a time")
    shared = _tile(rows, point) * (point.across + THINNED + 1) * 4 * len(rows.sums)
    if shared > moves.STATIC_SHARED:
        reasons.append(f"sums of {_tile(rows, point)} rows take {shared} bytes of shared memory, over {moves.STATIC_SHARED}")
    return reasons


def default(program: Program, target: Target) -> Knobs:
    rows = Rows.of(program)
    access, size = moves.widest(program, rows.size), dm.constant(rows.size)
    if size is None:
        return Knobs(access=access)
    accesses = -(-size // moves.elements_of(access, program.dtype))
    across = next((a for a in (16, 32, 64, 128) if a >= accesses), 256)
    return Knobs(max(across, 32), 1, access) if rows.parts else Knobs(across, min(16, 256 // across), access)


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    rows = Rows.of(program)
    tile = _tile(rows, point)
    function = Function(program)
    with function as buffers, moves.blocks(tirx.ceildiv(rows.count, moves.i64(tile)) * rows.groups) as index:
        block, group = moves.split_block(index, rows.groups)
        _Block(rows, buffers, point, tile, block.astype("int64"), group.astype("int64")).emit()
    return function.primfunc


def _tile(rows: Rows, point: Knobs) -> int:
    """Rows of a thread block."""
    return max(rows.block, point.rows)


class Totals:
    """One sum for each row of a block, added up over the threads of its team: publish, thin, finish, read."""

    def __init__(self, tile: int, across: int, threads: int) -> None:
        self._tile, self._across, self._threads = tile, across, threads
        self._published = T.sblock_alloc_buffer((tile * across,), "float32", scope="shared")
        self._thinned = T.sblock_alloc_buffer((tile * THINNED,), "float32", scope="shared")
        self._totals = T.sblock_alloc_buffer((tile,), "float32", scope="shared")

    def publish(self, row: Expr, lane: Expr, value: Expr) -> None:
        T.buffer_store(self._published, value, [row * self._across + lane])

    def thin(self) -> None:
        share = self._across // THINNED
        self._each(
            self._tile * THINNED,
            lambda i: self._add(self._thinned, self._published, i, i // THINNED * self._across + i % THINNED, share, THINNED),
        )

    def finish(self) -> None:
        self._each(self._tile, lambda i: self._add(self._totals, self._thinned, i, i * THINNED, THINNED, 1))

    def __getitem__(self, row: Expr) -> Expr:
        return self._totals[row]

    def _each(self, count: int, visit: Callable[[Expr], None]) -> None:
        with moves.phase(self._threads) as thread:
            for turn in range(-(-count // self._threads)):
                item = turn * self._threads + thread
                with moves.when(True if (turn + 1) * self._threads <= count else item < count):
                    visit(item)

    @staticmethod
    def _add(into: tirx.Var, words: tirx.Var, slot: Expr, first: Expr, count: int, stride: int) -> None:
        total = moves.Registers.private(1, "float32")
        total.store(0, words[first])
        with T.unroll(count - 1) as other:
            total.store(0, total[0] + words[first + (other + 1) * stride])
        T.buffer_store(into, total[0], [slot])


@dataclass(frozen=True)
class _Block:
    """The rows of one thread block: `tile` of one group."""

    rows: Rows
    buffers: dict[str, tirx.Var]
    point: Knobs
    tile: int
    block: Expr
    group: Expr

    @property
    def threads(self) -> int:
        return self.point.across * self.point.rows

    @property
    def lanes(self) -> int:
        return moves.elements_of(self.point.access, self.rows.program.dtype)

    def emit(self) -> None:
        totals = {s: Totals(self.tile, self.point.across, self.threads) for s in self.rows.sums}
        with moves.phase(self.threads) as thread:
            self._sums(thread, totals)
        for total in totals.values():
            total.thin()
            total.finish()
        with moves.phase(self.threads) as thread:
            self._results(thread, totals)

    def _sums(self, thread: Expr, totals: dict[te.Tensor, Totals]) -> None:
        lane = tirx.truncmod(thread, self.point.across)
        with T.serial(0, self.tile // self.point.rows) as step:
            here = step * self.point.rows + tirx.truncdiv(thread, self.point.across)
            sums = {s: moves.Registers.private(self.lanes, "float32") for s in totals}
            for registers in sums.values():
                for slot in range(self.lanes):
                    registers.store(slot, moves.f32(0.0))

            def add(place: _Place, here: Expr = here, sums: dict[te.Tensor, moves.Registers] = sums) -> None:
                held = self._read(self.rows.read_by(list(sums)), place, self._row(here))
                for slot in range(self.lanes):
                    with moves.when(place.exists(slot)):
                        for total, registers in sums.items():
                            term = self.rows.term(total, lambda tensor, slot=slot: held[tensor][slot])
                            registers.store(slot, registers[slot] + term)

            with moves.when(self._row(here) < self.rows.count):
                self._columns(lane, add)
            for total, registers in sums.items():
                for slot in range(1, self.lanes):
                    registers.store(0, registers[0] + registers[slot])
                totals[total].publish(here, lane, registers[0])

    def _results(self, thread: Expr, totals: dict[te.Tensor, Totals]) -> None:
        rows, lanes = self.rows, self.lanes
        operands = rows.read_by([*rows.results, *rows.parts])

        def visit(place: _Place) -> None:
            columns = self._read([t for t in operands if rows.column(t)], place, moves.i64(0))
            parts = {t: moves.Registers.private(lanes, "float32") for t in rows.parts}
            for registers in parts.values():
                for slot in range(lanes):
                    registers.store(slot, moves.f32(0.0))

            def compute(here: Expr) -> None:
                row = self._row(here)
                held = columns | self._read([t for t in operands if not rows.column(t)], place, row)
                sums = moves.Registers.private(len(totals), "float32")
                for slot, total in enumerate(totals.values()):
                    sums.store(slot, total[here])
                known = {t: sums[slot] for slot, t in enumerate(totals)}
                for part, registers in parts.items():
                    for slot in range(lanes):
                        term = rows.term(part, lambda tensor, slot=slot: held[tensor][slot], known)
                        registers.store(slot, registers[slot] + term)
                for result in rows.results:
                    out = moves.Registers.private(lanes, str(result.dtype))
                    for slot in range(lanes):
                        out.store(slot, rows.term(result, lambda tensor, slot=slot: held[tensor][slot], known))
                    self._write(result, place, row, out)

            if self.tile == self.point.rows:
                here = tirx.truncdiv(thread, self.point.across)
                with moves.when(self._row(here) < rows.count):
                    compute(here)
            else:
                with T.serial(0, self.tile) as here, moves.when(self._row(here) < rows.count):
                    compute(here)
            for part, registers in parts.items():
                self._write(part, place, self.block, registers)

        self._columns(tirx.truncmod(thread, self.point.across), visit)

    def _row(self, here: Expr) -> Expr:
        return self.block * self.tile + here

    def _columns(self, lane: Expr, visit: Callable[[_Place], None]) -> None:
        """Visit this thread's places along a row: groups of lanes side by side, else lanes one team apart."""
        size, width = self.rows.size, self.lanes * self.point.across

        def sweep(wide: bool) -> None:
            with T.serial(moves.i64(0), dm.simplify(tirx.ceildiv(size, moves.i64(width)))) as number:
                place = _Place(self, number, lane, wide)
                with moves.when(place.starts()):
                    visit(place)

        if self.lanes == 1:
            sweep(False)
        else:
            moves.either(moves.divides(self.lanes, size), lambda: sweep(True), lambda: sweep(False))

    def _read(self, tensors: Sequence[te.Tensor], place: _Place, row: Expr) -> dict[te.Tensor, moves.Registers]:
        found = {}
        for tensor in tensors:
            kind, flat = str(tensor.dtype), moves.Flat.of(tensor, self.buffers)
            found[tensor] = registers = moves.Registers.private(self.lanes, kind)
            for first, lanes in self._accesses(kind, place):
                group = place.group(self._start(tensor, row), first, lanes)
                moves.read_vector(flat, group, registers, first, lanes)
            if not place.wide:
                for slot in range(self.lanes):
                    at = self._start(tensor, row) * self.rows.size + place.column(slot)
                    registers.store(slot, moves.read_guarded(flat, at, place.exists(slot), kind))
        return found

    def _write(self, tensor: te.Tensor, place: _Place, row: Expr, values: moves.Registers) -> None:
        flat = moves.Flat.of(tensor, self.buffers)
        for first, lanes in self._accesses(str(tensor.dtype), place):
            moves.write_vector(flat, place.group(self._start(tensor, row), first, lanes), values, first, lanes)
        if not place.wide:
            for slot in range(self.lanes):
                with moves.when(place.exists(slot)):
                    flat.store(self._start(tensor, row) * self.rows.size + place.column(slot), values[slot])

    def _accesses(self, kind: str, place: _Place) -> list[tuple[int, int]]:
        """(first lane, lanes) of each access for the lanes of a place: float32 beside halves takes two."""
        lanes = min(self.lanes, 16 // find_dtype(kind).itemsize)
        return [(first, lanes) for first in range(0, self.lanes, lanes)] if place.wide else []

    def _start(self, tensor: te.Tensor, row: Expr) -> Expr:
        """In rows of S elements: where a tensor's row of this group is."""
        return self.group if self.rows.column(tensor) else row * self.rows.groups + self.group


@dataclass(frozen=True)
class _Place:
    """The columns of one thread in one step along a row."""

    block: _Block
    number: Expr
    lane: Expr
    wide: bool

    def starts(self) -> Expr:
        """Whether any of them exists."""
        if self.wide:
            return (self.number * self.block.point.across + self.lane) * self.block.lanes < self.block.rows.size
        return self.column(0) < self.block.rows.size

    def exists(self, slot: int) -> Expr | bool:
        return True if self.wide or slot == 0 else self.column(slot) < self.block.rows.size

    def column(self, slot: int) -> Expr:
        return (self.number * self.block.lanes + slot) * self.block.point.across + self.lane

    def group(self, row: Expr, first: int, lanes: int) -> Expr:
        """Which access of a tensor it is, counted in `lanes`."""
        per_row = tirx.truncdiv(self.block.rows.size, moves.i64(lanes))
        mine = (self.number * self.block.point.across + self.lane) * (self.block.lanes // lanes) + first // lanes
        return moves.hold(row * per_row + mine)
