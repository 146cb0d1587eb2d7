"""Register-blocked GEMM on the float32 units: any dtype, any size, any expression as a factor; the fallback of all others.

For any Program `result = epilogue(sum of row factor * column factor)`. float32 stays float32: no TF32, no split.

1. One block per `bm` x `bn` tile of the result; the side of known size (weights) runs fastest, for L2.
2. A step of `bk` travels global -> registers -> shared memory. The registers of the next step are requested before this
   step is multiplied, and two stages in shared memory make one barrier per step enough. Both tiles are kept step by step as
   float32 (16-bit inputs are converted once, a gather happens here), 4 elements of padding between the steps, so that
   16-byte reads stay aligned and neighbouring steps start in different banks.
3. A thread owns `tm` x `tn` sums in groups of four neighbours, the groups far apart: neighbouring threads read neighbouring
   16 bytes. Per step it reads (tm + tn) * 4 bytes for tm * tn FMAs: 8 x 8 asks of shared memory one byte per FMA, what an
   SM's 128 FMAs and 128 bytes per cycle can just balance (rows are broadcast within a warp, which halves it).
4. Every 32 products a chain of additions ends and is added to the sum, which costs 3 % and as many registers again: at a
   depth of 1000 one long chain is four times as wrong, and worse than the tolerance allows.
5. Epilogue through shared memory, as in mma.

Predicted, not measured (H100 SXM): 65-75 % of 67 TFLOP/s, 44-50, for large float32; the same for 16-bit inputs.

ptxas (nvcc 13.0, sm_90a, 2026-11-24): 187 registers in float32 and 200 in bfloat16 (K = 1152, M = 4304,
default point), 68 KiB of shared memory, no spills: one block of 8 warps on an SM, limited by registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir.dims import constant
from treadle.ir.expr import Expr
from treadle.schedules.emit import Function
from treadle.schedules.gemm.block import Block, Registers, decided, either
from treadle.schedules.gemm.epilogue import Epilogue
from treadle.schedules.gemm.limits import over
from treadle.schedules.gemm.tiles import PAD, Side, Tiles, contraction
from treadle.schedules.space import knob
from treadle.schedules.target import Target

SERIAL = True
#: Elements between the steps of a tile in shared memory, beyond the tile: one 16-byte read.
STEP_PAD = 4
#: Products in one chain of additions. A sum of short sums loses fewer digits than one long one, as torch's do.
CHAIN = 32


@dataclass(frozen=True)
class Knobs:
    bm: int = knob(128, (32, 64, 128), "rows per block: how often a column read from L2 is used")
    bn: int = knob(128, (32, 64, 128), "columns per block: how often a row read from L2 is used")
    bk: int = knob(16, (8, 16, 32), "reduction steps per stage: fewer barriers against more registers in flight")
    tm: int = knob(8, (4, 8), "rows per thread: how often a column in registers is used")
    tn: int = knob(8, (4, 8), "columns per thread: how often a row in registers is used")

    @property
    def threads(self) -> int:
        return self.bm // self.tm * (self.bn // self.tn)

    @property
    def registers(self) -> int:
        """Per thread: sums twice, one step of both tiles, the elements in flight, and some 32 addresses and counters."""
        return 2 * self.tm * self.tn + self.tm + self.tn + -(-self.bk * (self.bm + self.bn) // self.threads) + 32

    @property
    def shared_bytes(self) -> int:
        return 4 * max(2 * self.bk * (self.bm + self.bn + 2 * STEP_PAD), self.bm * (self.bn + PAD))


def applies(program: Program) -> bool:
    return contraction(program) is not None


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    if not 32 <= point.threads <= 1024:
        return [
            f"{point.bm} x {point.bn} in {point.tm} x {point.tn} per thread takes {point.threads} threads; "
            "a block has one warp at least and 1024 threads at most"
        ]
    return over(point, target)


def default(program: Program, target: Target) -> Knobs:
    """128 x 128 in 256 threads; smaller where a known size would leave half a tile empty."""
    c = contraction(program)
    assert c is not None
    bm, bn = (next((t for t in (32, 64) if constant(s) is not None and constant(s) <= t), 128) for s in (c.rows, c.columns))
    return Knobs(bm=bm, bn=bn, tm=8 if bm == 128 else 4, tn=8 if bn == 128 else 4)


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    c = contraction(program)
    assert c is not None
    block = Block(target.kind == "cuda", point.threads)
    tiles = Tiles(c, block, point.bm, point.bn, point.bk, program.dtype)
    fn = Function(program)
    with fn as buffers, block.grid(tiles.count) as number:
        _Kernel(tiles, point, buffers).emit(number)
    return fn.primfunc


class _Kernel:
    """The body of one block."""

    def __init__(self, tiles: Tiles, point: Knobs, buffers: dict[str, tirx.Var]) -> None:
        self.tiles, self.point, self.buffers, self.block = tiles, point, buffers, tiles.block
        self.sides = (tiles.row, tiles.column)
        #: Where each side's tile starts in a stage, and how large a stage is.
        self.first = (0, point.bk * (point.bm + STEP_PAD))
        self.stage = self.first[1] + point.bk * (point.bn + STEP_PAD)
        self.flight = [-(-side.extent * point.bk // self.block.threads) for side in self.sides]

    def emit(self, number: Expr) -> None:
        block, point, tiles = self.block, self.point, self.tiles
        outer, *corner = tiles.own(number)
        shared, staged = block.shared((2 * self.stage, "float32"), Epilogue.shared(tiles))
        chain, sums = (block.registers(point.tm * point.tn, "float32") for _ in range(2))
        flight = [block.registers(n, "float32") for n in self.flight]
        factors = block.registers(point.tm, "float32"), block.registers(point.tn, "float32")
        zero = tirx.const(0, "int64")
        with block.phase() as thread, block.unroll(point.tm * point.tn) as i:
            for start in (chain, sums):
                start.put(thread, i, tirx.const(0, "float32"))
        self.fetch(flight, outer, corner, zero)
        self.keep(shared, flight, zero)
        block.barrier()
        with T.serial(0, tiles.steps) as step:
            more = decided(step + 1 < tiles.steps)
            either(more, lambda: self.fetch(flight, outer, corner, step + 1), None)
            self.multiply(shared, step % 2 * self.stage, chain, factors)
            either(step % (CHAIN // point.bk) == CHAIN // point.bk - 1, lambda: self.add(chain, sums), None)
            either(more, lambda: self.keep(shared, flight, (step + 1) % 2 * self.stage), None)
            block.barrier()
        self.add(chain, sums)
        epilogue = Epilogue(tiles, self.buffers, staged)
        with block.phase() as thread, block.unroll(point.tm) as i, block.unroll(point.tn // 4) as j:
            row, column = self.mine(thread)
            at = i // 4 * (point.bm * 4 // point.tm) + row + i % 4
            epilogue.put(
                at, j * (point.bn * 4 // point.tn) + column, [sums.get(thread, i * point.tn + j * 4 + v) for v in range(4)]
            )
        block.barrier()
        epilogue.store(outer, *corner)

    def mine(self, thread: Expr) -> tuple[Expr, Expr]:
        """First row and column of the thread's first group of sums."""
        across = self.point.bn // self.point.tn
        return thread // across * 4, thread % across * 4

    def _place(self, side: Side, number: Expr) -> tuple[Expr, Expr]:
        """(position, step) of the element with a number: numbers run the way memory runs."""
        if side.turned:
            return number % side.extent, number // side.extent
        return number // self.point.bk, number % self.point.bk

    def fetch(self, flight: Sequence[Registers], outer: Sequence[Expr], corner: Sequence[Expr], step: Expr) -> None:
        """Ask for one step of both factors; zeros past the end."""
        for side, first, held, count in zip(self.sides, corner, flight, self.flight, strict=True):
            with self.block.phase() as thread, self.block.unroll(count) as u:
                position, k = self._place(side, u * self.block.threads + thread)
                position, k = first + position, step * self.point.bk + k
                inside = tirx.all(position < side.size, k < self.tiles.c.depth)
                held.put(
                    thread, u, tirx.if_then_else(inside, side.value(outer, position, k, self.buffers), tirx.const(0, "float32"))
                )

    def keep(self, shared: tirx.Var, flight: Sequence[Registers], stage: Expr) -> None:
        """Put what was asked for into a stage."""
        for side, first, held, count in zip(self.sides, self.first, flight, self.flight, strict=True):
            with self.block.phase() as thread, self.block.unroll(count) as u:
                number = u * self.block.threads + thread
                position, k = self._place(side, number)
                at = stage + first + k * (side.extent + STEP_PAD) + position
                whole = side.extent * self.point.bk % self.block.threads == 0
                put = lambda at=at, held=held, u=u, thread=thread: T.buffer_store(shared, held.get(thread, u), [at])  # noqa: E731
                either(True if whole else number < side.extent * self.point.bk, put, None)

    def add(self, chain: Registers, sums: Registers) -> None:
        """End a chain of additions: into the sums with it, and begin anew."""
        with self.block.phase() as thread, self.block.unroll(self.point.tm * self.point.tn) as i:
            sums.put(thread, i, sums.get(thread, i) + chain.get(thread, i))
            chain.put(thread, i, tirx.const(0, "float32"))

    def multiply(self, shared: tirx.Var, stage: Expr, sums: Registers, factors: tuple[Registers, Registers]) -> None:
        point, block = self.point, self.block
        with block.phase() as thread, T.serial(0, point.bk) as k:
            for side, first, factor, mine, count in zip(
                self.sides, self.first, factors, self.mine(thread), (point.tm, point.tn), strict=True
            ):
                line = T.bind(stage + first + k * (side.extent + STEP_PAD) + mine)
                for group in range(count // 4):
                    with (T.vectorized if block.cuda else T.serial)(0, 4) as v:
                        factor.put(thread, group * 4 + v, shared[line + group * (side.extent * 4 // count) + v])
            with block.unroll(point.tm) as i, block.unroll(point.tn) as j:
                at = i * point.tn + j
                sums.put(thread, at, block.fma(factors[0].get(thread, i), factors[1].get(thread, j), sums.get(thread, at)))
