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

from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read, Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import Stream, int64
from treadle.schedules.scan.step import Cell, contiguous, ends, reads, step_of


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
    return [] if contiguous(scan, scan.axis) else ["a tensor is not contiguous along the walk"]


def columns(scan: Scan, shape: Shape) -> int:
    """Rows that are multiples of this many elements are moved in the widest pieces that any tensor of the scan allows."""
    sizes = [k.itemsize(str(t.tensor.dtype)) for t in (*reads(scan), *scan.outputs)]
    return min(shape.steps, k.VECTOR // min(sizes))


def pitch(kind: str, steps: int) -> int:
    """Elements between rows of a tile: an odd number of words."""
    return steps + 4 // k.itemsize(kind)


def places(scan: Scan) -> tuple[list[Stream], list[int | None]]:
    """The tiles of a block: its streams, and for each output the stream whose tile it takes over, if any."""
    streams = k.streams(reads(scan))
    free = [i for i, s in enumerate(streams) if s.shifts == (0,) and s.back == 0]
    taken: list[int | None] = []
    for output in scan.outputs:
        fits = [i for i in free if i not in taken and str(streams[i].tensor.dtype) == str(output.tensor.dtype)]
        taken.append(fits[0] if fits else None)
    return streams, taken


def dtypes(scan: Scan) -> list[str]:
    """The dtypes of the tiles of a block: streams, then outputs that found no place."""
    streams, taken = places(scan)
    return [str(s.tensor.dtype) for s in streams] + [
        str(o.tensor.dtype) for o, at in zip(scan.outputs, taken, strict=True) if at is None
    ]


def shared_bytes(scan: Scan, shape: Shape) -> int:
    tiles = sum(-(-shape.longest * pitch(d, shape.steps) * k.itemsize(d) // 16) * 16 for d in dtypes(scan))
    return tiles + 2 * -(-(shape.longest + 2) * 4 // 16) * 16


def emit(scan: Scan, buffers: dict[str, tirx.Var], shape: Shape, wide: bool) -> None:
    """One kernel. `wide`: rows are multiples of 16 bytes."""
    with k.grid(scan) as block:
        _Tiles(scan, buffers, shape, wide, block).emit()


class _Moved:
    """A tensor on its way between memory and its tile. Consecutive threads move consecutive pieces of a row.

    Where everything moves in 16-byte pieces, all pieces of a thread are loaded ahead into registers. Single elements are not:
    each would hold a register and, in nvcc's hands, the 64-bit address of its row, and spill. They are moved in a loop.
    """

    def __init__(self, owner: _Tiles, buffers: dict[str, tirx.Var], end: Read | Output, tile: tirx.Var) -> None:
        self.owner, self.end, self.tile = owner, end, tile
        self.back = getattr(end, "back", 0)
        shape, scan, kind = owner.shape, owner.scan, str(end.tensor.dtype)
        # A tensor read beside the step starts between two pieces of 16 bytes: element by element.
        self.columns = min(k.VECTOR // k.itemsize(kind), shape.steps) if owner.wide and not self.back else 1
        self.whole = tirx.floordiv(scan.steps, self.columns)
        self.rows = k.rows(buffers, end.tensor, self.columns, self.whole)
        self.across = shape.steps // self.columns
        self.ahead = owner.ahead and isinstance(end, Read)
        self.count = shape.rows * self.across if self.ahead else 1
        self.kept = T.sblock_alloc_buffer((shape.threads, self.count * self.columns), kind, scope="local")

    @property
    def trips(self) -> Expr:
        """Pieces of a thread; a short line has fewer."""
        threads = self.owner.shape.threads
        return tirx.floordiv(self.owner.scan.width * self.across + (threads - 1), threads).astype("int32")

    def _piece(self, tile: Expr, q: Expr | int, tx: Expr) -> tuple[Expr, Expr, Expr, Expr]:
        """(row, first slot, piece of the row in memory, whether it exists) of a thread's q-th piece."""
        shape, scan = self.owner.shape, self.owner.scan
        number = tx + q * shape.threads
        row, j = tirx.floordiv(number, self.across), tirx.floormod(number, self.across)
        first = self.whole - self.across - tile * self.across if scan.reverse else tile * self.across
        piece = first + (self.back if scan.reverse else -self.back) + j
        there = k.both(self.owner.block.exists, row < scan.width, piece >= 0, piece < self.whole)
        return row, j * self.columns, piece, there

    def exists(self, tile: Expr, q: Expr | int, tx: Expr) -> Expr:
        return self._piece(tile, q, tx)[3]

    def load(self, tile: Expr, q: Expr | int, tx: Expr, into: int = 0) -> None:
        row, _, piece, _ = self._piece(tile, q, tx)
        self.rows.load(self._row(row), piece, _always, self.kept, [tx], into * self.columns)

    def put(self, tile: Expr, q: Expr | int, tx: Expr, out_of: int = 0) -> None:
        row, slot, _, _ = self._piece(tile, q, tx)
        for c in range(self.columns):
            T.buffer_store(self.tile, self.kept[tx, out_of * self.columns + c], [row, slot + c])

    def store(self, tile: Expr, q: Expr, tx: Expr) -> None:
        row, slot, piece, _ = self._piece(tile, q, tx)
        for c in range(self.columns):
            T.buffer_store(self.kept, self.tile[row, slot + c], [tx, c])
        self.rows.store(self._row(row), piece, _always, self.kept, [tx])

    def _row(self, l: Expr) -> Expr:
        return self.rows.row(self.end.index(self.owner.block.position(tirx.const(0, "int32"), int64(0), l)))


def _always(_: Expr) -> Expr:
    return tirx.const(True, "bool")


class _Tiles:
    def __init__(self, scan: Scan, buffers: dict[str, tirx.Var], shape: Shape, wide: bool, block: k.Block) -> None:
        self.scan, self.shape, self.wide, self.block = scan, shape, wide, block
        self.streams, self.taken = places(scan)
        self.ahead = shape.ahead and wide and not any(s.back for s in self.streams)
        wanted: list[tuple[Sequence[Expr], str]] = [
            ((int64(shape.longest), int64(pitch(d, shape.steps))), d) for d in dtypes(scan)
        ]
        *tiles, before, after = k.Arena([*wanted, *[((int64(shape.longest + 2),), CARRY)] * 2]).buffers
        self.lines = [before, after]
        self.tiles = tiles[: len(self.streams)]
        spare = iter(tiles[len(self.streams) :])
        self.out_tiles = [next(spare) if at is None else self.tiles[at] for at in self.taken]
        self.ins = [_Moved(self, buffers, s.read, tile) for s, tile in zip(self.streams, self.tiles, strict=True)]
        self.outs = [_Moved(self, buffers, o, tile) for o, tile in zip(scan.outputs, self.out_tiles, strict=True)]
        self.carry = T.sblock_alloc_buffer((shape.threads, 1), CARRY, scope="local")
        self.results = [T.sblock_alloc_buffer((shape.threads, 1), o.tensor.dtype, scope="local") for o in scan.outputs]

    def emit(self) -> None:
        steps = self.shape.steps
        tiles = tirx.floordiv(self.scan.steps + (steps - 1), steps)
        self._load_ahead(int64(0), tiles)
        with T.serial(int64(0), tiles) as tile:
            with k.phase(self.shape.threads) as (tx, _):
                for moved in self.ins if self.ahead else ():
                    for q in range(moved.count):
                        moved.put(tile, q, tx, q)
                for group in self._alike(self.ins) if not self.ahead else ():
                    with T.serial(0, group[0].trips) as q, k.when(group[0].exists(tile, q, tx)):
                        for moved in group:
                            moved.load(tile, q, tx)
                        for moved in group:
                            moved.put(tile, q, tx)
            k.barrier()
            self._load_ahead(tile + 1, tiles)
            # As many pairs as there are steps left: nvcc then keeps the loop rolled, and its registers for the next tile.
            left = tirx.floordiv(self.scan.steps - tile * steps + 1, 2)
            with T.serial(0, tirx.min(int64(steps // 2), left).astype("int32")) as pair:
                for u in range(2):
                    self._step(tile, pair * 2 + u, u)
            with k.phase(self.shape.threads) as (tx, _):
                for group in self._alike(self.outs):
                    with T.serial(0, group[0].trips) as q, k.when(group[0].exists(tile, q, tx)):
                        for moved in group:
                            moved.store(tile, q, tx)
            if any(at is not None for at in self.taken):
                k.barrier()

    def _load_ahead(self, tile: Expr, tiles: Expr) -> None:
        if self.ahead:
            with k.phase(self.shape.threads) as (tx, _), k.when(tile < tiles):
                for group in self._alike(self.ins):
                    for q in range(group[0].count):
                        with k.when(group[0].exists(tile, q, tx)):
                            for moved in group:
                                moved.load(tile, q, tx, q)

    @staticmethod
    def _alike(moved: list[_Moved]) -> list[list[_Moved]]:
        """Tensors whose pieces are the same in number and place: they share a loop and its conditions."""
        return [[m for m in moved if (m.across, m.back) == at] for at in sorted({(m.across, m.back) for m in moved})]

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
        cell = Cell(self.scan, step_of(self.scan, step), ends(row, self.scan.width), load)
        T.buffer_store(self.carry, cell.carry(lambda o: self.lines[1 - u][row + o + 1]), [tx, 0])
        for output, result in zip(self.scan.outputs, self.results, strict=True):
            T.buffer_store(result, cell.value(output.value, carry).astype(output.tensor.dtype), [tx, 0])
        T.buffer_store(self.lines[u], carry, [row + 1])
        # Only now: a result may take the place of a tensor that another result is made from.
        for out, result in zip(self.out_tiles, self.results, strict=True):
            T.buffer_store(out, result[tx, 0], [row, slot])
