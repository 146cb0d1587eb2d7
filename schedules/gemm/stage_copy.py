"""One stage of a pipelined GEMM: a tile of each factor on its way from global to shared memory, by cp.async where it can."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir.expr import Expr
from treadle.schedules.gemm.block import either
from treadle.schedules.gemm.tiles import PAD, Side, Tiles


class StageCopy:
    """Where a stage keeps its two tiles, and the copies that fill it.

    A tile is kept the way its source lies: lines of `bk` steps, or of `extent` positions where memory runs along those.
    """

    def __init__(self, tiles: Tiles, buffers: dict[str, tirx.Var], dtype: str) -> None:
        self.tiles, self.buffers, self.dtype, self.block = tiles, buffers, dtype, tiles.block
        self._rows = self._elements(tiles.row)
        #: elements of one stage
        self.size = self._rows + self._elements(tiles.column)

    def _lines(self, side: Side) -> tuple[int, int]:
        """(lines of a tile, elements of a line)"""
        return (self.tiles.bk, side.extent) if side.turned else (side.extent, self.tiles.bk)

    def _elements(self, side: Side) -> int:
        lines, run = self._lines(side)
        return lines * (run + PAD)

    def at(self, side: Side, position: Expr, step: Expr) -> Expr:
        """Where a stage keeps an element."""
        line, place = (step, position) if side.turned else (position, step)
        first = self._rows if side.which == "column" else 0
        return first + line * (self._lines(side)[1] + PAD) + place

    def fill(self, shared: tirx.Var, stage: Expr, outer: Sequence[Expr], corner: tuple[Expr, Expr], step: Expr) -> None:
        """Start the copies of one step; elements past the end of the positions or the reduction become zeros."""
        for side, first in zip((self.tiles.row, self.tiles.column), corner, strict=True):
            ways = [
                (
                    aligned,
                    lambda width=width, side=side, first=first: self._fill(shared, stage, outer, side, first, step, width),
                )
                for width, aligned in side.vectors()
            ]
            either(*ways[0], ways[1][1] if len(ways) > 1 else None)

    def _fill(
        self, shared: tirx.Var, stage: Expr, outer: Sequence[Expr], side: Side, first: Expr, step: Expr, width: int
    ) -> None:
        block, bk = self.block, self.tiles.bk
        lines, run = self._lines(side)
        accesses = lines * run // width
        assert side.source is not None
        source = self.buffers[side.source.op.name]

        def access(number: Expr) -> None:
            line, place = number // (run // width), number % (run // width) * width
            position, k = (place, line) if side.turned else (line, place)
            inside = tirx.all(first + position < side.size, step * bk + k < self.tiles.c.depth)
            to = stage + self.at(side, position, k)
            ahead = [(v, 0) if side.turned else (0, v) for v in range(width)]
            values = [source[*side.where(outer, first + position + p, step * bk + k + s)] for p, s in ahead]
            nbytes = width * find_dtype(self.dtype).itemsize
            if block.cuda and nbytes >= 4:
                # Past the end nothing is read and zeros are written: src-size 0.
                size = tirx.Select(inside, tirx.const(nbytes, "uint32"), tirx.const(0, "uint32"))
                copy = T.ptx[f"cp.async.{'cg' if nbytes == 16 else 'ca'}.shared.global"]
                T.evaluate(copy(T.address_of(shared[to]), T.address_of(values[0]), nbytes, size))
                return
            for v, value in enumerate(values):
                T.buffer_store(shared, tirx.if_then_else(inside, value, tirx.const(0, self.dtype)), [to + v])

        with block.phase() as thread, block.unroll(-(-accesses // block.threads)) as u:
            number = u * block.threads + thread
            either(True if accesses % block.threads == 0 else number < accesses, lambda: access(number), None)

    def commit(self) -> None:
        if self.block.cuda:
            T.evaluate(T.ptx["cp.async.commit_group"]())

    def wait(self, pending: int) -> None:
        """Until no more than `pending` stages are on their way."""
        if self.block.cuda:
            T.evaluate(T.ptx["cp.async.wait_group"](pending))
