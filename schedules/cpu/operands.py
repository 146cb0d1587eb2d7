"""What a contraction is made of, read from its tensor expressions: its two factors, the axes of each, their memory order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import sym, te, tirx

from treadle.ir import Program
from treadle.ir.dims import constant
from treadle.ir.expr import Expr, depends
from treadle.schedules.emit import Load, at, value


@dataclass(frozen=True)
class Contraction:
    """result = epilogue(total, others); total[outer, rows, column] = sum over reduction axes of row_factor * column_factor.

    `row_factor` does not depend on the column, the contiguous axis of the result; `column_factor` does not depend on
    the row axes. The axes that both factors depend on, and the column factor's other axes, are outer loops.
    """

    result: te.Tensor
    total: te.Tensor
    row_factor: Expr
    column_factor: Expr
    row_axes: tuple[int, ...]
    outer_axes: tuple[int, ...]

    @property
    def axes(self) -> list[tirx.Var]:
        return [a.var for a in self.total.op.axis]

    @property
    def reduction(self) -> list[tirx.IterVar]:
        return list(self.total.op.body[0].axis)

    @property
    def outer_sizes(self) -> list[Expr]:
        return [self.total.shape[a] for a in self.outer_axes]

    @property
    def rows(self) -> Expr:
        return product(self.total.shape[a] for a in self.row_axes)

    @property
    def columns(self) -> Expr:
        return self.total.shape[-1]

    @property
    def depth(self) -> Expr:
        return product(a.dom.extent for a in self.reduction)

    def index(self, outer: Sequence[Expr], row: Expr, column: Expr) -> list[Expr]:
        """The index of the result at an outer index, a flat row and a column."""
        where = dict(zip(self.outer_axes, outer, strict=True))
        where |= zip(self.row_axes, unravel(row, [self.total.shape[a] for a in self.row_axes]), strict=True)
        return [where.get(a, column) for a in range(len(self.total.shape))]

    def factor(self, body: Expr, index: Sequence[Expr], step: Expr, load: Load) -> Expr:
        """The value of a factor at an index of the result and a flat step of the reduction."""
        steps = unravel(step, [a.dom.extent for a in self.reduction])
        return at(body, [*self.axes, *(a.var for a in self.reduction)], [*index, *steps], load)

    def finish(self, index: Sequence[Expr], total: Expr, load: Load) -> Expr:
        """The result at an index, given the finished sum."""
        return value(self.result, index, lambda t, where: total if t.same_as(self.total) else load(t, where))

    def contiguous(self, body: Expr, along: str) -> bool:
        """Whether a factor reads consecutive memory as the last row axis, the column or the flat step advances by one."""
        step = tirx.Var("step", "int64")
        axis = {"row": self.row_axes[-1] if self.row_axes else None, "column": len(self.axes) - 1, "step": None}[along]

        def addresses(index: Sequence[Expr], step: Expr) -> list[Expr]:
            found: list[Expr] = []

            def note(tensor: te.Tensor, where: Sequence[Expr]) -> Expr:
                found.append(flat(where, tensor.shape))
                return tirx.const(0, tensor.dtype)

            self.factor(body, index, step, note)
            return found

        there = [v + 1 if i == axis else v for i, v in enumerate(self.axes)]
        pairs = zip(addresses(self.axes, step), addresses(there, step + 1 if along == "step" else step), strict=True)
        return all(constant(sym.Analyzer().simplify(b - a)) == 1 for a, b in pairs)


def find(program: Program) -> Contraction | None:
    """The contraction a Program consists of, or None where it is something else."""
    if program.scan or program.updates or len(program.results) != 1:
        return None
    result = program.results[0]
    sums = [t for t in result.op.input_tensors if not isinstance(t.op, te.PlaceholderOp)]
    if len(sums) != 1 or not isinstance(sums[0].op.body[0], tirx.Reduce):
        return None
    total, reduce = sums[0], sums[0].op.body[0]
    if not _is_sum(reduce) or not isinstance(reduce.source[0], tirx.Mul) or not _reads_itself(result, total):
        return None
    a, b = reduce.source[0].a, reduce.source[0].b
    axes = [v.var for v in total.op.axis]
    column = axes[-1]
    if depends(a, column) == depends(b, column):
        return None
    rows, columns = (b, a) if depends(a, column) else (a, b)
    inner = tuple(i for i, v in enumerate(axes) if depends(rows, v) and not depends(columns, v))
    outer = tuple(i for i, v in enumerate(axes[:-1]) if i not in inner)
    return Contraction(result, total, rows, columns, inner, outer)


def _is_sum(reduce: tirx.Reduce) -> bool:
    if len(reduce.source) != 1 or constant(reduce.condition) != 1:
        return False
    (left,), (right,), (combined,) = reduce.combiner.lhs, reduce.combiner.rhs, reduce.combiner.result
    return bool(tvm_ffi.structural_equal(combined, left + right, map_free_vars=True))


def _reads_itself(result: te.Tensor, total: te.Tensor) -> bool:
    """Whether every element of the result reads the sum of the same index, and those sums cover it."""
    if len(total.shape) != len(result.shape):
        return False
    seen: list[bool] = []

    def note(tensor: te.Tensor, where: Sequence[Expr]) -> Expr:
        if tensor.same_as(total):
            seen.append(all(i.same_as(v.var) for i, v in zip(where, result.op.axis, strict=True)))
        return tirx.const(0, tensor.dtype)

    value(result, [a.var for a in result.op.axis], note)
    return all(seen)


def product(sizes) -> Expr:
    total = tirx.const(1, "int64")
    for s in sizes:
        total = total * s
    return total


def flat(index: Sequence[Expr], shape: Sequence[Expr]) -> Expr:
    """The row-major position of an index."""
    position = tirx.const(0, "int64")
    for i, size in zip(index, shape, strict=True):
        position = position * size + i
    return position


def unravel(position: Expr, shape: Sequence[Expr]) -> list[Expr]:
    """The index at a row-major position; kept as an expression, which simplifies away where memory is contiguous."""
    index: list[Expr] = []
    for size in reversed(shape[1:]):
        index.insert(0, position % size)
        position = position // size
    return [position, *index] if shape else []


def ceildiv(a: Expr, b: Expr | int) -> Expr:
    return (a + (b - 1)) // b
