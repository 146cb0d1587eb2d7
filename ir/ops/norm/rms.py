"""What the RMS norms share: a row u divided by its root mean square, and how a gradient comes back through that.

n = u r with r = 1 / sqrt(mean u^2 + eps), so for a gradient g of n:  du = r (g - u r^2 mean(g u)).
The gradient of a weight is a sum over rows. It is written as sums over blocks of `BLOCK` rows, which are independent of
each other and of how many there are; adding up the blocks is left to whoever wants one sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import te, tirx

from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.ops.math import f32
from treadle.ir.program import Attr, Builder

#: Rows whose weight gradients are added up in one part.
BLOCK = 16
EPS = Attr(1e-5, minimum=0.0, doc="added to the mean square")
WEIGHT = Attr("same", choices=("same", "float32"), doc="dtype of weight: that of x, or float32, as master weights are")

#: The value of a tensor at an index, in float32.
Row = Callable[..., Expr]


@dataclass(frozen=True)
class Normed:
    """Rows `u` over the last axis of `shape`, with the sum of their squares as a stage."""

    shape: tuple[Size, ...]
    u: Row
    square: te.Tensor
    eps: float

    @staticmethod
    def of(shape: Sequence[Size], u: Row, eps: float) -> Normed:
        return Normed(tuple(shape), u, _sum(shape, lambda *at: u(*at) * u(*at), "square"), eps)

    def scale(self, *row: Expr) -> Expr:
        """r, of one row."""
        return 1.0 / tirx.sqrt(self.square[row] / self.shape[-1].astype("float32") + tirx.const(self.eps, "float32"))

    def __call__(self, *at: Expr) -> Expr:
        """n = u r."""
        return self.u(*at) * self.scale(*at[:-1])

    def pullback(self, g: Row) -> Row:
        """The gradient of u from that of n."""
        product = _sum(self.shape, lambda *at: g(*at) * self.u(*at), "product")

        def du(*at: Expr) -> Expr:
            r = self.scale(*at[:-1])
            mean = product[at[:-1]] / self.shape[-1].astype("float32")
            return r * (g(*at) - self.u(*at) * (r * r * mean))

        return du


def weight_parts(shape: Sequence[Size], term: Row, name: str) -> te.Tensor:
    """A sum over the rows of a block, for each block and each place along a row."""
    rows, *along = shape

    def part(p: Expr, *at: Expr) -> Expr:
        q = te.reduce_axis((0, BLOCK), "q")
        here = p * BLOCK + q.var
        return te.sum(tirx.if_then_else(here < rows, term(here, *at), tirx.const(0.0, "float32")), q)

    return te.compute(((rows + (BLOCK - 1)) // BLOCK, *along), part, name)


def kind(b: Builder, attr: str) -> str:
    """The dtype that an attribute of the choices same and float32 stands for."""
    return "float32" if b.attrs[attr] == "float32" else b.dtype


def wide(tensor: te.Tensor) -> Row:
    return lambda *at: f32(tensor[at])


def _sum(shape: Sequence[Size], term: Row, name: str) -> te.Tensor:
    *rows, size = shape
    k = te.reduce_axis((0, size), "k")
    return te.compute(tuple(rows), lambda *row: te.sum(term(*row, k.var), k), name)
