"""Tile: the transposition through shared memory, so that reads run along C and writes along P.

A direct copy would touch one element per 32-byte sector on one of its two sides, eight to sixteen times the traffic. Moves:

1. *tile*: a block turns a square of `tile` positions by `tile` features; both of its sides are whole sectors.
2. *16-byte accesses*: on each side by itself, where its row length is a multiple of 16 bytes (known, or asked once by a
   branch that the whole grid takes together); otherwise neighbouring lanes take neighbouring elements.
3. *pad the rows* of the tile by four bytes: the words of a column then lie in 32 different banks, instead of all in one.
4. *blockIdx.x alone* counts images and tiles, features fastest, so that neighbours in time read the same lines.

Floor: x is read once and y written once. Predicted: 85 to 90 % of copy bandwidth where both sides take 16 bytes, 70 to
80 % where P is odd (a 37 x 37 grid), as sectors at the ends of rows are then shared by two blocks; nothing was timed.

Compiler (sm_90a, nvcc 13.0, 2026-11-24): fp32 32 registers and 16,636 bytes of shared memory, bf16 31 to 35 and 8,444; no
spills; 16-byte accesses on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir import Program
from treadle.ir.expr import Expr
from treadle.schedules import cuda_moves as moves
from treadle.schedules.emit import Function
from treadle.schedules.space import knob
from treadle.schedules.target import Target

SERIAL = True
#: Elements of a tile per thread: the copies are unrolled, and have to fit the instruction cache.
MOST_EACH = 64


@dataclass(frozen=True)
class Knobs:
    tile: int = knob(64, (16, 32, 64, 128), "side of the square that a block turns: large ones share fewer sectors")
    threads: int = knob(256, (64, 128, 256, 512), "threads of a block")
    access: int = knob(16, (2, 4, 8, 16), "bytes of one access, on the sides whose rows are multiples of it")


def applies(program: Program) -> bool:
    return program.name == "image.to_planes"


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    reasons = moves.access_refusals(program, point.access)
    lanes, item = moves.elements_of(point.access, program.dtype), find_dtype(program.dtype).itemsize
    needed = point.tile * moves.padded(point.tile, program.dtype) * item
    if needed > moves.STATIC_SHARED:
        reasons.append(f"a padded tile of {point.tile} is {needed} bytes, over {moves.STATIC_SHARED} of static shared memory")
    if point.tile * point.tile // lanes < point.threads:
        reasons.append(f"a tile of {point.tile} has {point.tile**2 // lanes} accesses, fewer than {point.threads} threads")
    if (each := point.tile**2 // point.threads) > MOST_EACH:
        reasons.append(f"{point.threads} threads move {each} elements each, as many copies of the code, over {MOST_EACH}")
    return reasons


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    (source,), (result,) = program.args, program.results
    images, positions, features = source.shape
    lanes = moves.elements_of(point.access, program.dtype)
    side = moves.i64(point.tile)
    down, across = tirx.ceildiv(positions, side), tirx.ceildiv(features, side)
    function = Function(program)
    with function as buffers:
        pitch = moves.padded(point.tile, program.dtype)
        # One axis: TVM shrinks a buffer to the box that is touched, and would cut the pad off the rows of two.
        tile = T.sblock_alloc_buffer((point.tile * pitch,), program.dtype, scope="shared")
        with moves.blocks(images * down * across) as block:
            rest, c = moves.split_block(block, across)
            image, p = (i.astype("int64") for i in moves.split_block(rest, down))
            corner = p * point.tile, c.astype("int64") * point.tile

            def fill(row: Expr, column: Expr, value: Expr) -> None:
                T.buffer_store(tile, value, [row * pitch + column])

            def turned(row: Expr, column: Expr) -> Expr:
                return tile[column * pitch + row]

            with moves.phase(point.threads) as thread:
                x = _Rows(moves.Flat.of(source, buffers), image, positions, features, corner, program.dtype)
                x.each(point, lanes, thread, lambda rows, own, wide: rows.read(own, lanes, wide, fill))
            with moves.phase(point.threads) as thread:
                y = _Rows(moves.Flat.of(result, buffers), image, features, positions, corner[::-1], program.dtype)
                y.each(point, lanes, thread, lambda rows, own, wide: rows.write(own, lanes, wide, turned))
    return function.primfunc


@dataclass(frozen=True)
class _Rows:
    """One side of a tile: rows of a matrix of one image, from a corner on."""

    flat: moves.Flat
    image: Expr
    rows: Expr
    columns: Expr
    corner: tuple[Expr, Expr]
    dtype: str

    def each(self, point: Knobs, lanes: int, thread: Expr, access: Callable[[_Rows, tuple[Expr, Expr], bool], None]) -> None:
        """All accesses of this side, shared out between the threads; neighbours lie side by side in a row."""

        def sweep(wide: bool) -> None:
            per_row = point.tile // lanes if wide else point.tile
            with T.unroll(point.tile * per_row // point.threads) as step:
                number = step * point.threads + thread
                access(self, (tirx.truncdiv(number, per_row), tirx.truncmod(number, per_row) * (lanes if wide else 1)), wide)

        moves.either(moves.divides(lanes, self.columns), lambda: sweep(True), lambda: sweep(False))

    def read(self, own: tuple[Expr, Expr], lanes: int, wide: bool, fill: Callable[[Expr, Expr, Expr], None]) -> None:
        with moves.when(self._inside(own)):
            if not wide:
                fill(*own, self.flat[self._position(own)])
                return
            held = moves.Registers.private(lanes, self.dtype)
            moves.read_vector(self.flat, self._group(own, lanes), held, 0, lanes)
            for lane in range(lanes):
                fill(own[0], own[1] + lane, held[lane])

    def write(self, own: tuple[Expr, Expr], lanes: int, wide: bool, take: Callable[[Expr, Expr], Expr]) -> None:
        with moves.when(self._inside(own)):
            if not wide:
                self.flat.store(self._position(own), take(*own))
                return
            held = moves.Registers.private(lanes, self.dtype)
            for lane in range(lanes):
                held.store(lane, take(own[0], own[1] + lane))
            moves.write_vector(self.flat, self._group(own, lanes), held, 0, lanes)

    def _inside(self, own: tuple[Expr, Expr]) -> Expr:
        """Whether an access lies in the matrix: columns are multiples of the lanes of a wide one, so its first decides."""
        return tirx.all(self.corner[0] + own[0] < self.rows, self.corner[1] + own[1] < self.columns)

    def _position(self, own: tuple[Expr, Expr]) -> Expr:
        return (self.image * self.rows + self.corner[0] + own[0]) * self.columns + self.corner[1] + own[1]

    def _group(self, own: tuple[Expr, Expr], lanes: int) -> Expr:
        row = self.image * self.rows + self.corner[0] + own[0]
        column = tirx.truncdiv(self.corner[1], lanes) + tirx.truncdiv(own[1], lanes)
        return moves.hold(row * tirx.truncdiv(self.columns, lanes) + column)
