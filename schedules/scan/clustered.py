"""A line longer than a block: the blocks of a cluster lie along it, and hand their edges to each other's shared memory.

Each block holds its part of the line in registers, as in `registers.py`, and its loads are as wide. What changes is the two
ends: the outermost threads write their edge twice, at home and through `st.shared::cluster` into the place that the
neighbouring block keeps for what lies beyond its own part. The barrier of the step is the cluster's. Odd and even steps have
their own arrays, so it is one a step here too. Nobody writes after the last barrier, so no block leaves too early.

TVM knows no barrier of a cluster and would look for one of its own: the edges lie in dynamic memory, where it does not look.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan import registers
from treadle.schedules.scan.kernel import int64
from treadle.schedules.scan.registers import Buffers, Edges, Shape


def emit(scan: Scan, buffers: Buffers, shape: Shape, pieces: Expr | None, ctas: int) -> None:
    with k.grid(scan, shape.lanes, ctas) as block:
        Line(scan, buffers, shape, pieces, block).emit()


class _Ends(Edges):
    """Edges of which the outermost also goes to the neighbouring block."""

    def __init__(self, line: Line, offset: int) -> None:
        self.line, self.block = line, line.block
        super().__init__(line.shape, offset)

    def _arrays(self) -> list[tirx.Var]:
        return [next(self.line.arrays) for _ in range(2)]

    def publish(self, parity: int, tx: Expr, ty: Expr, value: Callable[[int], Expr]) -> None:
        super().publish(parity, tx, ty, value)
        last, rank = self.shape.threads - 1, self.block.rank
        outermost = tirx.all(tx == last, rank < self.block.ctas - 1) if self.offset < 0 else tirx.all(tx == 0, rank > 0)
        with k.when(outermost):
            place, ctas = 0 if self.offset < 0 else last + 2, self.block.ctas
            other = tirx.floormod(rank + (1 if self.offset < 0 else ctas - 1), ctas)  # never negative, as TVM wants it
            mine = T.cuda.cvta_generic_to_shared(T.address_of(self.of[parity][ty, place]))
            there = T.alloc_buffer((1,), "uint32", scope="local")
            T.evaluate(T.ptx["mapa.shared::cluster.u32"](there[0], mine, other.astype("uint32")))
            T.evaluate(T.ptx["st.shared::cluster.f32"](there[0], value(self.column)))


class Line(registers.Line):
    def __init__(self, scan: Scan, buffers: Buffers, shape: Shape, pieces: Expr | None, block: k.Block) -> None:
        size = (int64(shape.lanes), int64(shape.threads + 2))
        self.arrays = iter(k.Arena([(size, CARRY)] * (2 * registers.sides(scan))).buffers)
        super().__init__(scan, buffers, shape, pieces, block)

    def edges(self, offset: int) -> Edges:
        return _Ends(self, offset)

    def piece(self, tx: Expr) -> Expr:
        return self.block.rank * self.shape.threads + tx

    def _begin(self) -> None:
        self._meet()  # no block writes to another that has not cleared its edges, or has not begun

    def _meet(self) -> None:
        with k.phase(self.shape.threads, self.shape.lanes):
            T.evaluate(T.ptx["barrier.cluster.arrive.release.aligned"]())
            T.evaluate(T.ptx["barrier.cluster.wait.acquire.aligned"]())
