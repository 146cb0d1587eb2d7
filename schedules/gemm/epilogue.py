"""Finished sums on their way out: from shared memory, through bias, activation and residual, to the result.

The sums wait in float32, so that here neighbouring threads own neighbouring elements. Where the rows of the result are
16-byte aligned a thread finishes 16 bytes at a time, and reads what the epilogue needs in the same width; a symbolic size is
tested once per kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import sym, te, tirx
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir.dims import constant, same
from treadle.ir.expr import Expr
from treadle.schedules.cpu.operands import flat
from treadle.schedules.gemm.block import either
from treadle.schedules.gemm.tiles import ACCESS_BYTES, PAD, Tiles

_PACK = {"float16": "cvt.rn.f16x2.f32", "bfloat16": "cvt.rn.bf16x2.f32"}


class Epilogue:
    """The sums of a tile in shared memory, rows `pitch` apart, and how they are finished."""

    def __init__(self, tiles: Tiles, buffers: dict[str, tirx.Var], sums: tirx.Var) -> None:
        self.sums = sums
        self.tiles, self.c, self.block, self.buffers = tiles, tiles.c, tiles.block, buffers
        self.dtype = str(self.c.result.dtype)
        self.width = ACCESS_BYTES // find_dtype(self.dtype).itemsize
        #: 8 banks from row to row: the four rows that half a warp writes in pairs of sums lie in different banks.
        self.pitch = tiles.column.extent + PAD

    @staticmethod
    def shared(tiles: Tiles) -> tuple[int, str]:
        """The shared memory that the sums need."""
        return tiles.row.extent * (tiles.column.extent + PAD), "float32"

    def put(self, row: Expr, column: Expr, values: Sequence[Expr]) -> None:
        """Leave neighbouring sums of a row."""
        for v, value in enumerate(values):
            T.buffer_store(self.sums, value, [row * self.pitch + column + v])

    def store(self, outer: Sequence[Expr], row: Expr, column: Expr) -> None:
        aligned = sym.Analyzer().simplify(self.c.columns % self.width == 0)
        if constant(aligned) is not None:
            self._store(outer, row, column, self.width if constant(aligned) else 1)
        else:
            wide, narrow = (lambda w=w: self._store(outer, row, column, w) for w in (self.width, 1))
            either(aligned, wide, narrow)

    def _store(self, outer: Sequence[Expr], row: Expr, column: Expr, width: int) -> None:
        block, tiles, c = self.block, self.tiles, self.c
        across = tiles.column.extent // width
        result = self.buffers[c.result.op.name]
        held = _Held(self, width)
        with block.phase() as thread, T.serial(0, tiles.row.extent * across // block.threads) as u:
            chunk = u * block.threads + thread
            i, j = T.bind(chunk // across), T.bind(chunk % across * width)
            with T.If(tirx.all(row + i < c.rows, column + j < c.columns)), T.Then():
                index = [c.index(outer, row + i, column + j + v) for v in range(width)]
                held.fetch(index, thread, i * self.pitch + j)
                values = [c.finish(index[v], held.sum(v), lambda t, where, v=v: held.read(t, where, v)) for v in range(width)]
                if width > 1 and block.cuda:
                    self._store_16_bytes(result, index[0], values, held)
                else:
                    for v in range(width):
                        T.buffer_store(result, values[v], index[v])

    def _store_16_bytes(self, result: tirx.Var, index: Sequence[Expr], values: Sequence[Expr], held: _Held) -> None:
        """One store instruction; left to itself nvcc makes four of it."""
        if self.dtype == "float32":
            words, kind = values, "f32"
        else:
            # The last step of an epilogue rounds to the result's dtype: two sums into one register.
            for w in range(4):
                high, low = (_float32(values[2 * w + h]) for h in (1, 0))
                T.evaluate(T.ptx[_PACK[self.dtype]](held.words[w], high, low))
            words, kind = [held.words[w] for w in range(4)], "b32"
        T.evaluate(T.ptx[f"st.global.v4.{kind}"](T.address_of(result[*index]), *words))


class _Held:
    """What a thread holds while it finishes neighbouring elements: their sums and the arguments that lie alongside."""

    def __init__(self, epilogue: Epilogue, width: int) -> None:
        self.e, self.width = epilogue, width
        self.vector = width > 1 and epilogue.block.cuda
        self.at: Expr | None = None
        self.sums = self.words = None
        self.copies: dict[str, tirx.Var] = {}
        if self.vector:
            self.sums = T.alloc_buffer((width,), "float32", scope="local")
            self.words = T.alloc_buffer((4,), "uint32", scope="local")
            word = "float32" if epilogue.dtype == "float32" else "uint32"
            self.copies = {t.op.name: T.alloc_buffer((4,), word, scope="local") for t in self._alongside()}

    def _alongside(self) -> list[te.Tensor]:
        """The arguments of the epilogue whose memory runs along the result's columns, rows aligned where the result's are."""
        c, found = self.e.c, []
        axes = c.axes
        ahead = [*axes[:-1], axes[-1] + 1]
        reads = [self._reads(axes), self._reads(ahead)]
        for (tensor, here), (_, there) in zip(*reads, strict=True):
            step = sym.Analyzer().simplify(flat(there, tensor.shape) - flat(here, tensor.shape))
            if constant(step) == 1 and same(tensor.shape[-1], c.columns) and str(tensor.dtype) == self.e.dtype:
                found.append(tensor)
        return found

    def _reads(self, index: Sequence[Expr]) -> list[tuple[te.Tensor, Sequence[Expr]]]:
        found = []

        def note(tensor: te.Tensor, where: Sequence[Expr]) -> Expr:
            found.append((tensor, where))
            return tirx.const(0, tensor.dtype)

        self.e.c.finish(index, tirx.const(0, "float32"), note)
        return found

    def fetch(self, index: Sequence[Sequence[Expr]], thread: Expr, at: Expr) -> None:
        self.at = at
        if not self.vector:
            return
        for first in range(0, self.width, 4):
            with T.vectorized(0, 4) as v:
                T.buffer_store(self.sums, self.e.sums[at + first + v], [first + v])
        for tensor, where in self._reads(index[0]):
            if tensor.op.name in self.copies:
                words = self.copies[tensor.op.name]
                load = T.ptx[f"ld.global.nc.v4.{'f32' if self.e.dtype == 'float32' else 'b32'}"]
                T.evaluate(load(*(words[w] for w in range(4)), T.address_of(self.e.buffers[tensor.op.name][*where])))

    def sum(self, v: int) -> Expr:
        return self.sums[v] if self.vector else self.e.sums[self.at + v]

    def read(self, tensor: te.Tensor, where: Sequence[Expr], v: int) -> Expr:
        name = tensor.op.name
        if name not in self.copies:
            return self.e.buffers[name][*where]
        if self.e.dtype == "float32":
            return self.copies[name][v]
        half = self.copies[name][v // 2] >> tirx.const(v % 2 * 16, "uint32")
        return tirx.reinterpret(self.e.dtype, half.astype("uint16"))


def _float32(value: Expr) -> Expr:
    return value.value if isinstance(value, tirx.Cast) and str(value.value.ty) == "float32" else value.astype("float32")
