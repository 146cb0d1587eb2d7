"""A contraction cut into tiles of the result, one per thread block: which tile a block owns and how a factor lies in memory.
Shared by every GEMM schedule; the gather of an implicit GEMM is nothing but the address of a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tvm import ir, sym, te, tirx
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir import Program
from treadle.ir.dims import constant, simplify
from treadle.ir.expr import Expr
from treadle.schedules.cpu.operands import Contraction, ceildiv, find, flat
from treadle.schedules.gemm.block import Block, split

#: Elements of 2 bytes (or float32) that one 16-byte access moves; the padding that makes 8 rows of a tile hit 8 banks.
ACCESS_BYTES = 16
PAD = 8


def contraction(program: Program) -> Contraction | None:
    """The contraction of a Program; row axes that do not form one line in memory become outer loops but for the last ones.

    Tokens [N, P, K] are N * P equal rows. Planes [N, K, P] and patches of N images are not: there N stays outside, so
    that a tile's rows lie in one image.
    """
    c = find(program)
    if c is None or len(c.row_axes) < 2 or Side(c, "row", 0, "").along == "step":
        return c
    return replace(c, row_axes=c.row_axes[1:], outer_axes=(c.row_axes[0], *c.outer_axes))


@dataclass(frozen=True)
class Side:
    """One factor of a contraction, the rows' or the columns', as a tile of `extent` in shared memory."""

    c: Contraction
    which: str
    extent: int
    dtype: str

    @property
    def body(self) -> Expr:
        return self.c.row_factor if self.which == "row" else self.c.column_factor

    @property
    def size(self) -> Expr:
        return self.c.rows if self.which == "row" else self.c.columns

    @cached_property
    def source(self) -> te.Tensor | None:
        """The argument that the factor reads, if it is that argument and nothing more (but for the cast to float32)."""
        read = self.body.value if isinstance(self.body, tirx.Cast) else self.body
        return read.args[0] if isinstance(read, ir.Call) and getattr(read.op, "name", "") == "te.tensor_load" else None

    @cached_property
    def along(self) -> str | None:
        """What runs along memory: the steps of the reduction ("step"), this side's own axis, or nothing (a gather)."""
        return next((a for a in ("step", self.which) if self.c.contiguous(self.body, a)), None)

    @property
    def turned(self) -> bool:
        """Whether memory runs along the positions, and not along the steps."""
        return self.along == self.which

    def where(self, outer: Sequence[Expr], position: Expr, step: Expr) -> list[Expr]:
        """The index of the source that holds the factor at a position of this side and a flat step."""
        zero = tirx.const(0, "int64")
        index = self.c.index(outer, *((position, zero) if self.which == "row" else (zero, position)))
        return self._source_index(index, step)

    def value(self, outer: Sequence[Expr], position: Expr, step: Expr, buffers: dict[str, tirx.Var]) -> Expr:
        """The factor itself, in float32."""
        zero = tirx.const(0, "int64")
        index = self.c.index(outer, *((position, zero) if self.which == "row" else (zero, position)))
        return self.c.factor(self.body, index, step, lambda t, where: buffers[t.op.name][*where])

    def vectors(self) -> list[tuple[int, Expr | bool]]:
        """How many elements one access may move, widest first, each with the condition under which it is aligned.

        An access starts at a multiple of its own width along the contiguous axis. It is aligned if every other stride,
        and the extent of that axis, are multiples too: known at compile time, or one comparison per kernel.
        """
        if self.along is None:
            return [(1, True)]
        multiples = [*self._strides(), self.c.depth if self.along == "step" else self.size]
        width = ACCESS_BYTES // find_dtype(self.dtype).itemsize
        while width > 1:
            tests = [sym.Analyzer().simplify(m % width == 0) for m in multiples]
            open_tests = [t for t in tests if constant(t) is None]
            if all(constant(t) != 0 for t in tests):
                return [(width, tirx.all(*open_tests)), (1, True)] if open_tests else [(width, True)]
            width //= 2
        return [(1, True)]

    def _strides(self) -> list[Expr]:
        """How far memory moves with each axis other than the contiguous one."""
        c, step = self.c, tirx.Var("step", "int64")
        assert self.source is not None
        shape = self.source.shape
        ours = {"row": c.row_axes[-1] if c.row_axes else None, "column": len(c.axes) - 1}.get(self.along or "")
        base = flat(self._source_index(c.axes, step), shape)
        moved = [[v + 1 if i == a else v for i, v in enumerate(c.axes)] for a in range(len(c.axes)) if a != ours]
        there = [flat(self._source_index(index, step), shape) for index in moved]
        if self.along != "step":
            there.append(flat(self._source_index(c.axes, step + 1), shape))
        return [simplify(t - base) for t in there]

    def _source_index(self, index: Sequence[Expr], step: Expr) -> list[Expr]:
        found: list[Sequence[Expr]] = []

        def note(tensor: te.Tensor, where: Sequence[Expr]) -> Expr:
            found.append(where)
            return tirx.const(0, tensor.dtype)

        self.c.factor(self.body, index, step, note)
        return list(found[0])


class Tiles:
    """The tiles of a contraction's result and the loops over them."""

    def __init__(self, c: Contraction, block: Block, bm: int, bn: int, bk: int, dtype: str) -> None:
        self.c, self.block, self.bk = c, block, bk
        self.row, self.column = Side(c, "row", bm, dtype), Side(c, "column", bn, dtype)
        self.steps = simplify(ceildiv(c.depth, bk))
        self._counts = [simplify(ceildiv(s.size, s.extent)) for s in (self.row, self.column)]
        # Blocks that run at the same time should share the larger factor: the side of known size (weights) runs first.
        self._rows_first = constant(c.rows) is not None and constant(c.columns) is None

    @property
    def count(self) -> Expr:
        total = self._counts[0] * self._counts[1]
        for size in self.c.outer_sizes:
            total = total * size
        return simplify(total)

    def own(self, number: Expr) -> tuple[list[Expr], Expr, Expr]:
        """The outer index, first row and first column of a block's tile."""
        slow, fast = reversed(self._counts) if self._rows_first else self._counts
        *outer, a, b = split(number, [*self.c.outer_sizes, slow, fast])
        i, j = (b, a) if self._rows_first else (a, b)
        return outer, T.bind(i * self.row.extent), T.bind(j * self.column.extent)
