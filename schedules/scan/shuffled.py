"""A line in registers whose neighbours meet by warp shuffle; only where two warps touch do they meet in shared memory.

A shuffle takes some 25 cycles and needs no barrier. A line of one warp has no barrier at all; of several, one a step, with
two floats a warp in shared memory where `registers.py` has two a thread. Every lane takes part in a shuffle, whether its
columns exist or not: that is a phase without a condition. Threads of a warp wait for each other inside it, so this form
cannot be made serial.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan import registers
from treadle.schedules.scan.registers import Buffers, Edges, Shape

WARP = 32


def emit(scan: Scan, buffers: Buffers, shape: Shape, pieces: Expr | None) -> None:
    with k.grid(scan, shape.lanes * shape.each) as block:
        Line(scan, buffers, shape, pieces, block).emit()


class _Lanes(Edges):
    """The outer value of each thread, handed to the next lane, and of each warp, laid down for the next warp."""

    def __init__(self, shape: Shape, offset: int) -> None:
        self.offset, self.shape = offset, shape
        self.column = shape.columns - 1 if offset < 0 else 0
        self.width, self.warps = min(WARP, shape.threads), shape.threads // WARP
        self.got = T.sblock_alloc_buffer((shape.lanes, shape.threads), CARRY, scope="local")
        if self.warps > 1:
            self.of = [T.sblock_alloc_buffer((shape.lanes, self.warps + 2), CARRY, scope="shared") for _ in range(2)]

    def clear(self, ty: Expr) -> None:
        if self.warps > 1:
            for halo in self.of:
                for place in (0, self.warps + 1):
                    T.buffer_store(halo, tirx.const(0.0, CARRY), [ty, place])

    def publish(self, parity: int, tx: Expr, ty: Expr, value: Callable[[int], Expr]) -> None:
        mine = value(self.column)
        T.buffer_store(self.got, _shuffle("up" if self.offset < 0 else "down", mine, self.width), [ty, tx])
        if self.warps > 1:
            with k.when(tirx.floormod(tx, WARP) == (WARP - 1 if self.offset < 0 else 0)):
                T.buffer_store(self.of[parity], mine, [ty, tirx.floordiv(tx, WARP) + 1])

    def read(self, parity: int, tx: Expr, ty: Expr) -> Expr:
        if self.warps <= 1:
            return self.got[ty, tx]
        outer = tirx.floormod(tx, WARP) == (0 if self.offset < 0 else WARP - 1)
        return T.if_then_else(outer, self.of[parity][ty, tirx.floordiv(tx, WARP) + 1 + self.offset], self.got[ty, tx])


def _shuffle(way: str, value: Expr, width: int) -> Expr:
    """The value that the next lane of a segment of the warp has; at its end, one's own."""
    return tirx.call_intrin(CARRY, f"tirx.cuda.__shfl_{way}_sync", tirx.const(0xFFFFFFFF, "uint32"), value, 1, width)


class Line(registers.Line):
    def edges(self, offset: int) -> Edges:
        return _Lanes(self.shape, offset)

    def _step(self, step: Expr, u: int) -> None:
        with self._threads() as (tx, ty):
            self._load(step + self.shape.ahead, (u + self.shape.ahead) % self.sets, tx, ty)
            self._arrived(step, tx, ty)
        with k.phase(self.shape.threads, self.shape.lanes) as (tx, ty):
            self._publish(u, tx, ty)
        if self.shape.threads > WARP:
            self._meet()
        with self._threads() as (tx, ty), k.when(step < self.scan.steps):
            for member in self.members:
                member.compute(step, u, tx, ty)
