"""Gate normalisation of GSPN, logits to row-stochastic weights (the stability-context condition), and its adjoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import te, tirx

from treadle.ir import expr as ex
from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.ops.math import f32, sigmoid, sigmoid_slope
from treadle.ir.ops.scan.gspn import ATTRS, DIRECTIONS
from treadle.ir.program import Builder, define

#: Smallest sum of sigmoids that is divided by: three logits of -16 and below no longer sum to one.
FLOOR = 1e-7
SHAPE = "NGHW"
ATTRIBUTES = {"direction": ATTRS["direction"]}


def _share(s: Expr, total: Expr) -> Expr:
    return s / tirx.max(total, tirx.const(FLOOR, "float32"))


@dataclass(frozen=True)
class Normalised:
    """The stages of the normalisation of `logits(n, k, g, h, w)`: sigmoids, their sum over existing neighbours, gates.

    Every Program that normalises does it through these stages, whether it writes the gates or uses them where they are made.
    """

    s: te.Tensor
    total: te.Tensor
    gates: te.Tensor
    exists: Callable[[Expr, Expr, Expr], Expr]

    def pullback(self, dgates: te.Tensor, dtype: str, name: str) -> te.Tensor:
        """The gradient of the logits from that of the gates, each stage differentiated by `ir/expr.py`.

        The quotient's gradients are added up before they are divided, so that a gate alone, always 1, has exactly none.
        """
        n, _, g, h, w = self.s.shape
        zero, one, whole = tirx.const(0.0, "float32"), tirx.Var("share", "float32"), tirx.Var("sum", "float32")
        stated = _share(one, whole)

        def slope(by: tirx.Var, a: Expr, k: Expr, c: Expr, i: Expr, j: Expr) -> Expr:
            """What the gradient of gate k gives to its own sigmoid, or to the sum, times the divisor."""
            times_divisor = ex.add(ex.derivative(stated.a, by), ex.mul(-stated, ex.derivative(stated.b, by)))
            here = ex.substitute(times_divisor, {one: self.s[a, k, c, i, j], whole: self.total[a, c, i, j]})
            return tirx.Select(self.exists(k, i, j), ex.mul(f32(dgates[a, k, c, i, j]), here), zero)

        dtotal = te.compute((n, g, h, w), lambda a, c, i, j: sum(slope(whole, a, k, c, i, j) for k in range(3)), f"{name}_sum")

        def logit(a: Expr, k: Expr, c: Expr, i: Expr, j: Expr) -> Expr:
            divisor = ex.substitute(stated.b, {whole: self.total[a, c, i, j]})
            ds = (slope(one, a, k, c, i, j) + dtotal[a, c, i, j]) / divisor
            here = ds * sigmoid_slope(self.s[a, k, c, i, j])
            return tirx.Select(self.exists(k, i, j), here, zero).astype(dtype)

        return te.compute(self.s.shape, logit, name)


def normalised(
    logits: Callable[..., Expr], sizes: Sequence[Size], direction: str, dtype: str, suffix: str = ""
) -> Normalised:
    """The gates of `logits(n, k, g, h, w)` for a direction; sizes are N, G, H, W."""
    n, g, h, w = sizes
    along_w = DIRECTIONS[direction][1] == "W"
    zero = tirx.const(0.0, "float32")

    def exists(k: Expr, i: Expr, j: Expr) -> Expr:
        at, size = (j, w) if along_w else (i, h)
        return tirx.all(at + k - 1 >= 0, at + k - 1 < size)

    s = te.compute((n, 3, g, h, w), lambda *at: sigmoid(f32(logits(*at))), f"s{suffix}")
    total = te.compute(
        (n, g, h, w),
        lambda a, c, i, j: sum(tirx.Select(exists(k, i, j), s[a, k, c, i, j], zero) for k in range(3)),
        f"total{suffix}",
    )

    def gate(a: Expr, k: Expr, c: Expr, i: Expr, j: Expr) -> Expr:
        return tirx.Select(exists(k, i, j), _share(s[a, k, c, i, j], total[a, c, i, j]), zero).astype(dtype)

    return Normalised(s, total, te.compute((n, 3, g, h, w), gate, f"gates{suffix}"), exists)


@define(
    "scan.gspn_gates",
    attrs=ATTRIBUTES,
    adjoint="scan.gspn_gates_adjoint",
    math="s_k = sigmoid(logits[k]);  gates[k] = s_k / max(sum of existing s, 1e-7), and 0 where neighbour k does not exist",
    source="GSPN, arXiv 2501.12381, stability-context condition",
)
def gspn_gates(b: Builder) -> Sequence[te.Tensor]:
    """Normalise gate logits [N,3,G,H,W] so that the existing neighbours of each pixel have weights that sum to one.

    At the ends of a line the neighbour outside is left out of the sum and its gate written as 0. A line of one pixel has
    only its centre neighbour, with weight one.
    """
    n, g, h, w = sizes = [b.dim(name) for name in SHAPE]
    logits = b.arg("logits", (n, 3, g, h, w))
    b.cost(flops=12 * n * g * h * w, exps=3 * n * g * h * w)
    return [normalised(lambda *at: logits[at], sizes, b.attrs["direction"], b.dtype).gates]


@define(
    "scan.gspn_gates_adjoint",
    attrs=ATTRIBUTES,
    math="dlogits[k] = s_k (1 - s_k) / S (dgates[k] - sum_j gates[j] dgates[j]),  S = sum of existing s; 0 where k does not exist",
    source="derived from scan.gspn_gates, stage by stage",
)
def gspn_gates_adjoint(b: Builder) -> Sequence[te.Tensor]:
    """The gradient of the logits of `scan.gspn_gates`, from the logits and the gradient of the gates.

    Where the sum is below its floor it is a constant, and only a gate's own logit moves it. What `dgates` holds where a
    neighbour does not exist is not read.
    """
    n, g, h, w = sizes = [b.dim(name) for name in SHAPE]
    logits, dgates = b.arg("logits", (n, 3, g, h, w)), b.arg("dgates", (n, 3, g, h, w))
    b.cost(flops=30 * n * g * h * w, exps=3 * n * g * h * w)
    return [normalised(lambda *at: logits[at], sizes, b.attrs["direction"], b.dtype).pullback(dgates, b.dtype, "dlogits")]
