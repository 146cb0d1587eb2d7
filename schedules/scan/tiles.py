"""A scan along the contiguous axis: tiles of it are turned round in shared memory, the line lies along the threads.

A thread that walked its own row would touch a memory line of its own at every step. So a block takes a tile of a few steps
of all its rows: read and written along the rows, where memory is contiguous, and walked across them. Rows of a tile are
padded to an odd number of words, so that a step, one column of the tile, falls into 32 different banks.

Per tile, in every thread of a block:

    registers -> tile                                 the tile that was loaded while the one before it was walked
    -- barrier --
    load the next tile into registers                 in flight during the whole walk of this tile
    per step: compute from tile and carry line; -- barrier --
    results -> memory, along the rows; -- barrier --  results take the place of tensors that only their own row reads
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read, Scan
from treadle.schedules.cpu import scan_common as common
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import Stream, int64


@dataclass(frozen=True)
class Shape:
    """Threads across the rows, rows of a thread, steps of a tile, whether the next tile is loaded ahead."""

    threads: int
    rows: int
    steps: int
    ahead: bool

    @property
    def longest(self) -> int:
        return self.threads * self.rows


def refusals(scan: Scan) -> list[str]:
    reasons = []
    if scan.init is not None or scan.flush is not None:
        reasons.append("an initial carry: this schedule starts every line from nothing")
    if any(not common.runs_along(r.index, len(scan.sizes), scan.axis) for r in (*common.used_reads(scan), *scan.outputs)):
        reasons.append("a tensor is not contiguous along the walk")
    return reasons


def columns(scan: Scan, shape: Shape) -> int:
    """Rows that are multiples of this many elements are moved in the widest pieces that any tensor of the scan allows."""
    sizes = [find_dtype(str(t.tensor.dtype)).itemsize for t in (*common.used_reads(scan), *scan.outputs)]
    return min(shape.steps, k.VECTOR // min(sizes))


def pitch(kind: str, steps: int) -> int:
    """Elements between rows of a tile: an odd number of words."""
    return steps + 4 // find_dtype(kind).itemsize


def places(scan: Scan) -> tuple[list[Stream], list[int | None]]:
    """The tiles of a block: its streams, and for each output the stream whose tile it takes over, if any."""
    streams = k.streams(common.used_reads(scan))
    free = [i for i, s in enumerate(streams) if s.shifts == (0,) and s.back == 0]
    taken: list[int | None] = []
    for output in scan.outputs:
        fits = [i for i in free if i not in taken and str(streams[i].tensor.dtype) == str(output.tensor.dtype)]
        taken.append(fits[0] if fits else None)
    return streams, taken


def kinds(scan: Scan) -> list[str]:
    """The dtypes of the tiles of a block: streams, then outputs that found no place."""
    streams, taken = places(scan)
    return [str(s.tensor.dtype) for s in streams] + [
        str(o.tensor.dtype) for o, at in zip(scan.outputs, taken, strict=True) if at is None
    ]


def shared_bytes(scan: Scan, shape: Shape) -> int:
    tiles = sum(-(-shape.longest * pitch(d, shape.steps) * find_dtype(d).itemsize // 16) * 16 for d in kinds(scan))
    return tiles + 2 * -(-(shape.longest + 2) * 4 // 16) * 16


def register_words(scan: Scan, shape: Shape) -> int:
    """32-bit registers that hold the next tile."""
    per = shape.rows * shape.steps
    return sum(per * find_dtype(str(s.tensor.dtype)).itemsize // 4 for s in places(scan)[0]) if shape.ahead else 0


def emit(scan: Scan, buffers: dict[str, tirx.Var], shape: Shape, wide: bool) -> None:
    """One kernel. `wide`: rows are multiples of 16 bytes."""
    with k.grid(scan) as block:
        _Tiles(scan, buffers, shape, wide, block).emit()


class _Moved:
    """A tensor on its way between memory and its tile: who moves what. Threads run along the rows."""

    def __init__(self, owner: _Tiles, buffers: dict[str, tirx.Var], end: Read | Output, tile: tirx.Var) -> None:
        self.owner, self.end, self.tile = owner, end, tile
        self.back = getattr(end, "back", 0)
        shape, scan, kind = owner.shape, owner.scan, str(end.tensor.dtype)
        # A tensor read beside the step starts between two pieces of 16 bytes: element by element.
        self.columns = min(k.VECTOR // find_dtype(kind).itemsize, shape.steps) if owner.wide and not self.back else 1
        self.whole = tirx.floordiv(scan.steps, self.columns)
        self.rows = k.rows(buffers, end.tensor, self.columns, self.whole)
        self.count = shape.rows * shape.steps // self.columns
        self.kept = T.sblock_alloc_buffer((shape.threads, self.count * self.columns), kind, scope="local")

    def _piece(self, tile: Expr, q: int, tx: Expr) -> tuple[Expr, Expr, Expr, Expr]:
        """(row, first slot, piece of the row in memory, whether it exists) of a thread's q-th piece."""
        shape, scan = self.owner.shape, self.owner.scan
        across = shape.steps // self.columns
        number = tx + q * shape.threads
        row, j = tirx.floordiv(number, across), tirx.floormod(number, across)
        if scan.reverse:
            piece = self.whole - across - tile * across + self.back + j
        else:
            piece = tile * across - self.back + j
        there = k.both(self.owner.block.exists, row < scan.width, piece >= 0, piece < self.whole)
        return row, j * self.columns, piece, there

    def load(self, tile: Expr, tx: Expr) -> None:
        for q in range(self.count):
            row, _, piece, there = self._piece(tile, q, tx)
            with k.when(there):
                self.rows.load(self._row(row), piece, _always, self.kept, [tx], q * self.columns)

    def put(self, tile: Expr, tx: Expr) -> None:
        for q in range(self.count):
            row, slot, _, _ = self._piece(tile, q, tx)
            for c in range(self.columns):
                T.buffer_store(self.tile, self.kept[tx, q * self.columns + c], [row, slot + c])

    def store(self, tile: Expr, tx: Expr) -> None:
        for q in range(self.count):
            row, slot, piece, there = self._piece(tile, q, tx)
            with k.when(there):
                for c in range(self.columns):
                    T.buffer_store(self.kept, self.tile[row, slot + c], [tx, q * self.columns + c])
                self.rows.store(self._row(row), piece, _always, self.kept, [tx], q * self.columns)

    def _row(self, l: Expr) -> Expr:
        return self.rows.row(self.end.index(self.owner.block.position(tirx.const(0, "int32"), int64(0), l)))


def _always(_: Expr) -> Expr:
    return tirx.const(True, "bool")


class _Tiles:
    def __init__(self, scan: Scan, buffers: dict[str, tirx.Var], shape: Shape, wide: bool, block: k.Block) -> None:
        self.scan, self.shape, self.wide, self.block = scan, shape, wide, block
        self.streams, self.taken = places(scan)
        wanted: list[tuple[Sequence[Expr], str]] = [
            ((int64(shape.longest), int64(pitch(d, shape.steps))), d) for d in kinds(scan)
        ]
        *tiles, before, after = k.Arena([*wanted, *[((int64(shape.longest + 2),), CARRY)] * 2]).buffers
        self.lines = [before, after]
        self.tiles = tiles[: len(self.streams)]
        spare = iter(tiles[len(self.streams) :])
        self.out_tiles = [next(spare) if at is None else self.tiles[at] for at in self.taken]
        self.ins = [_Moved(self, buffers, s.read, tile) for s, tile in zip(self.streams, self.tiles, strict=True)]
        self.outs = [_Moved(self, buffers, o, tile) for o, tile in zip(scan.outputs, self.out_tiles, strict=True)]
        self.carry = T.sblock_alloc_buffer((shape.threads, 1), CARRY, scope="local")
        self.results = T.sblock_alloc_buffer((shape.threads, len(scan.outputs)), CARRY, scope="local")

    def emit(self) -> None:
        threads, steps = self.shape.threads, self.shape.steps
        tiles = tirx.floordiv(self.scan.steps + (steps - 1), steps)
        if self.shape.ahead:
            with k.phase(threads) as (tx, _):
                for moved in self.ins:
                    moved.load(int64(0), tx)
        with T.serial(int64(0), tiles) as tile:
            with k.phase(threads) as (tx, _):
                for moved in self.ins:
                    if not self.shape.ahead:
                        moved.load(tile, tx)
                    moved.put(tile, tx)
            k.barrier()
            if self.shape.ahead:
                with k.phase(threads) as (tx, _), k.when(tile + 1 < tiles):
                    for moved in self.ins:
                        moved.load(tile + 1, tx)
            with T.serial(0, steps // 2) as pair:
                for u in range(2):
                    self._step(tile, pair * 2 + u, u)
            with k.phase(threads) as (tx, _):
                for moved in self.outs:
                    moved.store(tile, tx)
            if any(at is not None for at in self.taken):
                k.barrier()

    def _step(self, tile: Expr, i: Expr, u: int) -> None:
        step = tile * self.shape.steps + i
        slot = self.shape.steps - 1 - i if self.scan.reverse else i
        with k.phase(self.shape.threads) as (tx, _), k.when(k.both(self.block.exists, step < self.scan.steps)):
            for r in range(self.shape.rows):
                row = tx + r * self.shape.threads
                with k.when(row < self.scan.width):
                    self._row(step, slot, row, tx, u)
        k.barrier()

    def _row(self, step: Expr, slot: Expr, row: Expr, tx: Expr, u: int) -> None:
        def load(read: Read) -> Expr:
            i = next(i for i, s in enumerate(self.streams) if k.same_stream(s.read, read))
            return self.tiles[i][row + read.shift, slot]

        carry = self.carry[tx, 0]
        for kind in common.kinds(self.scan, step):
            with k.when(kind.when):
                cell = common.Cell(self.scan, kind, row.astype("int64"), True, load)
                value = ex.add(cell.value(self.scan.source), cell.terms(lambda o: self.lines[1 - u][row + o + 1]))
                T.buffer_store(self.carry, value, [tx, 0])
                for n, output in enumerate(self.scan.outputs):
                    T.buffer_store(self.results, cell.value(output.value, carry), [tx, n])
        T.buffer_store(self.lines[u], carry, [row + 1])
        # Only now: a result may take the place of a tensor that another result is made from.
        for n, (output, out) in enumerate(zip(self.scan.outputs, self.out_tiles, strict=True)):
            T.buffer_store(out, self.results[tx, n].astype(output.tensor.dtype), [row, slot])
