"""Tensor-core GEMM for float16 and bfloat16 with float32 sums: mma.sync fed by cp.async through padded shared memory.

For any Program `result = epilogue(sum of row factor * column factor)` whose factors are plain arguments.

1. One block per `bm` x `bn` tile of the result, all tiles in one launch; the side of known size (weights) runs fastest, so
   that blocks running together read the same rows of x out of L2.
2. The reduction goes in steps of `bk`. `stages` - 1 of them are in flight by cp.async, which moves 16 bytes from L2 to
   shared memory without a register; one barrier per step. Tails are filled with zeros by the copy itself (src-size 0).
   Where rows of memory are not 16-byte aligned (planes of an odd size) the same loop copies with narrower accesses; a
   symbolic size is tested once per step, by a branch that all threads take together.
3. A tile is kept the way its source lies, `bk + 8` or `extent + 8` elements apart: an odd number of 16-byte units, so that
   the eight rows of an 8 x 8 matrix lie in different banks. Where memory runs along the positions (planes), ldmatrix.trans
   turns the matrix on its way to the registers.
4. A warp owns `wm` x `wn` sums. Per 16 steps it reads (wm + wn) * 32 bytes for wm * wn * 16 multiply-adds: 64 x 64 asks of
   shared memory 64 bytes per 1024 multiply-adds, half of what it delivers; 32 x 32 asks all of it.
5. The sums go through shared memory as float32, so that bias, activation and residual are applied where neighbouring
   threads own neighbouring elements, with 16-byte accesses.

Predicted, not measured (H100 SXM): mma.sync reaches 62-65 % of the wgmma peak of 989 TFLOP/s, 610-640; this loop with its
prologue, epilogue and waves 400-500 at P >= 16384, K = 1152, M = 4304. The latent 1x1 convolutions (K = M = 64) are bound by
bandwidth: 2 * 2 * 64 bytes per position, 13 positions per ns.

ptxas (nvcc 13.0, sm_90a, 2026-11-24): 167 registers (bfloat16, K = 1152, M = 4304, default point), 80 KiB of shared memory, no
spills: two blocks of 4 warps on an SM, limited by shared memory; 124 registers and four blocks at K = M = 64 in planes.
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
from treadle.schedules.gemm.stage_copy import StageCopy
from treadle.schedules.gemm.tiles import PAD, Side, Tiles, contraction
from treadle.schedules.gemm.warp_mma import WarpMma, matrix_origin, matrix_origin_transposed, sum_at
from treadle.schedules.space import knob
from treadle.schedules.target import Target

SERIAL = True
DTYPES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Knobs:
    bm: int = knob(128, (32, 64, 128, 256), "rows per block: how often a column read from L2 is used")
    bn: int = knob(128, (32, 64, 128, 256), "columns per block: how often a row read from L2 is used")
    bk: int = knob(32, (16, 32, 64), "reduction steps per stage: fewer barriers against more shared memory")
    stages: int = knob(4, (2, 3, 4), "stages in shared memory; all but one hide the latency of L2, some 600 cycles")
    wm: int = knob(64, (16, 32, 64), "rows per warp: how often a column in registers is used")
    wn: int = knob(64, (16, 32, 64), "columns per warp: how often a row in registers is used")

    @property
    def threads(self) -> int:
        return self.bm // self.wm * (self.bn // self.wn) * 32

    @property
    def registers(self) -> int:
        """Per thread: sums, fragments of one row and one column of warp tiles, and some 48 addresses and counters."""
        return self.wm * self.wn // 32 + self.wm // 4 + self.wn // 4 + 48

    @property
    def shared_bytes(self) -> int:
        """The stages, or the sums that take their place: whichever is more, at the wider of the two storage orders."""
        stage = sum(max(e * (self.bk + PAD), self.bk * (e + PAD)) for e in (self.bm, self.bn))
        return max(2 * self.stages * stage, 4 * self.bm * (self.bn + PAD))


def applies(program: Program) -> bool:
    c = contraction(program) if program.dtype in DTYPES else None
    if c is None:
        return False
    sources = [Side(c, which, 0, program.dtype).source for which in ("row", "column")]
    return all(s is not None and str(s.dtype) == program.dtype for s in sources)


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    reasons = []
    for feature in ("mma.f16" if program.dtype == "float16" else "mma.bf16", "ldmatrix", "cp.async"):
        if lacking := target.lacks(feature):
            reasons.append(f"{', '.join(lacking)} has no {feature}")
    for tile, warp, name in ((point.bm, point.wm, "rows"), (point.bn, point.wn, "columns")):
        if tile % warp:
            reasons.append(f"a block of {tile} {name} is not whole warp tiles of {warp}")
    if reasons:
        return reasons
    if not 32 <= point.threads <= 1024:
        reasons.append(
            f"{point.bm} x {point.bn} in warp tiles of {point.wm} x {point.wn} takes {point.threads} threads; a block has at most 1024"
        )
    for extent, name in ((point.bm, "rows"), (point.bn, "columns")):
        if extent * point.bk // 8 < point.threads // 4:
            reasons.append(
                f"a stage of {extent} {name} x {point.bk} steps leaves most of {point.threads} threads nothing to copy"
            )
    return [*reasons, *over(point, target)]


def default(program: Program, target: Target) -> Knobs:
    """Tiles of 128 x 128 in four warps; smaller where a known size would leave half a tile empty, shallow where K is."""
    c = contraction(program)
    assert c is not None
    bm, bn = (next((t for t in (32, 64) if constant(s) is not None and constant(s) <= t), 128) for s in (c.rows, c.columns))
    steps = constant(c.depth)
    stages = 4 if steps is None else min(4, max(2, -(-steps // 32)))
    return Knobs(bm=bm, bn=bn, stages=stages, wm=bm // 2, wn=bn // 2)


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    c = contraction(program)
    assert c is not None
    block = Block(target.kind == "cuda", point.threads)
    tiles = Tiles(c, block, point.bm, point.bn, point.bk, program.dtype)
    fn = Function(program)
    with fn as buffers, block.grid(tiles.count) as number:
        _Kernel(tiles, point, buffers, program.dtype).emit(number)
    return fn.primfunc


class _Kernel:
    """The body of one block."""

    def __init__(self, tiles: Tiles, point: Knobs, buffers: dict[str, tirx.Var], dtype: str) -> None:
        self.tiles, self.point, self.buffers, self.dtype, self.block = tiles, point, buffers, dtype, tiles.block
        self.copy = StageCopy(tiles, buffers, dtype)
        self.warp = WarpMma(self.block, dtype)
        self.mi, self.ni = point.wm // 16, point.wn // 8

    def emit(self, number: Expr) -> None:
        block, point, tiles = self.block, self.point, self.tiles
        outer, row, column = tiles.own(number)
        shared, staged = block.shared((point.stages * self.copy.size, self.dtype), Epilogue.shared(tiles))
        sums = block.registers(self.mi * self.ni * 4, "float32")
        fragments = self.warp.fragments(self.mi * 4), self.warp.fragments(self.ni * 2)
        with block.phase() as thread, block.unroll(self.mi * self.ni * 4) as i:
            sums.put(thread, i, tirx.const(0, "float32"))

        def fetch(step: Expr | int) -> None:
            step = tirx.const(step, "int64") if isinstance(step, int) else step
            self.copy.fill(shared, step % point.stages * self.copy.size, outer, (row, column), step)

        for step in range(point.stages - 1):
            either(decided(step < tiles.steps), lambda step=step: fetch(step), None)
            self.copy.commit()
        with T.serial(0, tiles.steps) as step:
            self.copy.wait(point.stages - 2)
            # Everybody's copies have landed, and everybody has read the stage that the next copies overwrite.
            block.barrier()
            either(decided(step + (point.stages - 1) < tiles.steps), lambda: fetch(step + (point.stages - 1)), None)
            self.copy.commit()
            self.multiply(shared, step % point.stages * self.copy.size, sums, fragments)
        self.copy.wait(0)
        block.barrier()
        self.finish(sums, Epilogue(tiles, self.buffers, staged), outer, row, column)

    def multiply(self, shared: tirx.Var, stage: Expr, sums, fragments) -> None:
        block, point = self.block, self.point
        rows, columns = fragments
        with block.unroll(point.bk // 16) as k:
            with block.phase() as thread:
                i, j = self.corner(thread)
                with block.unroll(self.mi) as m:
                    self.load(rows, m * 4, shared, stage, self.tiles.row, i + m * 16, k * 16, thread)
                with block.unroll(self.ni // 2) as n:
                    self.load(columns, n * 4, shared, stage, self.tiles.column, j + n * 16, k * 16, thread)
            with block.phase() as thread, block.unroll(self.mi) as m, block.unroll(self.ni) as n:
                self.warp.multiply(sums, (m * self.ni + n) * 4, rows, m * 4, columns, n * 2, thread)

    def load(
        self, to, first: Expr, shared: tirx.Var, stage: Expr, side: Side, position: Expr, step: Expr, thread: Expr
    ) -> None:
        origin = matrix_origin_transposed if side.turned else matrix_origin

        def address(lane: Expr) -> Expr:
            across, along = origin(side.which, lane)
            return stage + self.copy.at(side, position + across, step + along)

        self.warp.load(to, first, shared, address, thread, side.turned)

    def corner(self, thread: Expr) -> tuple[Expr, Expr]:
        """First row and column, in the block's tile, of the thread's warp."""
        across = self.point.bn // self.point.wn
        warp = thread // 32
        return warp // across * self.point.wm, warp % across * self.point.wn

    def finish(self, sums: Registers, epilogue: Epilogue, outer: Sequence[Expr], row: Expr, column: Expr) -> None:
        block = self.block
        with block.phase() as thread, block.unroll(self.mi) as m, block.unroll(self.ni) as n, block.unroll(2) as half:
            i, j = self.corner(thread)
            r, c = sum_at(thread % 32, half * 2)
            first = (m * self.ni + n) * 4 + half * 2
            epilogue.put(i + m * 16 + r, j + n * 8 + c, [sums.get(thread, first + e) for e in range(2)])
        block.barrier()
        epilogue.store(outer, row, column)
