"""An attention read from its tensor expressions, for kernels that meet the keys block by block.

Such a kernel keeps, for each query, the largest score so far, the sum of powers and the mixture of values, both relative to
it. What the two have gathered is multiplied by the power of the old largest score when a larger is found, which is the same
stage `power` of the Program, asked at another score.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import te

from treadle.ir import Program
from treadle.ir.expr import Expr
from treadle.schedules.cpu.operands import Contraction
from treadle.schedules.emit import value


@dataclass(frozen=True)
class Attention:
    """The stages, by name."""

    dot: te.Tensor
    score: te.Tensor
    top: te.Tensor
    power: te.Tensor
    total: te.Tensor
    mixed: te.Tensor
    y: te.Tensor

    @staticmethod
    def of(program: Program) -> Attention:
        (y,) = program.results
        found = {"y": y}
        pending = [y]
        while pending:
            for source in pending.pop().op.input_tensors:
                if isinstance(source.op, te.ComputeOp) and source.op.name not in found:
                    found[source.op.name] = source
                    pending.append(source)
        return Attention(**found)

    @property
    def scores(self) -> Contraction:
        """dot [n,h,s,t]: rows are queries, columns keys."""
        return self._contraction(self.dot, rows=2)

    @property
    def mixture(self) -> Contraction:
        """mixed [n,s,h,d]: rows are queries, columns features, steps keys."""
        return self._contraction(self.mixed, rows=1)

    @staticmethod
    def _contraction(total: te.Tensor, rows: int) -> Contraction:
        product = total.op.body[0].source[0]
        outer = tuple(a for a in range(len(total.shape) - 1) if a != rows)
        return Contraction(total, total, product.a, product.b, (rows,), outer)

    def scaled(self, dot: Expr) -> Expr:
        return self._ask(self.score, dot=dot)

    def weight(self, score: Expr, top: Expr) -> Expr:
        """The power of a score relative to a largest one."""
        return self._ask(self.power, score=score, top=top)

    def finish(self, mixed: Expr, total: Expr) -> Expr:
        """The result, in the dtype of the Program."""
        return self._ask(self.y, mixed=mixed, total=total)

    @staticmethod
    def _ask(stage: te.Tensor, **known: Expr) -> Expr:
        return value(stage, [a.var for a in stage.op.axis], lambda tensor, _: known[tensor.op.name])
