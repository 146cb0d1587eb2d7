"""Residual addition and root-mean-square normalisation in one pass, and the adjoint."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te

from treadle.ir.expr import Expr
from treadle.ir.ops.math import f32
from treadle.ir.ops.norm.rms import EPS, WEIGHT, Normed, kind, weight_parts, wide
from treadle.ir.program import Attr, Builder, define

RESIDUAL = Attr("same", choices=("same", "float32"), doc="dtype of the residual stream: that of x, or float32")
ATTRS = {"eps": EPS, "weight": WEIGHT, "residual": RESIDUAL}


@define(
    "norm.add_rms_norm",
    attrs=ATTRS,
    adjoint="norm.add_rms_norm_adjoint",
    math="sum = x + residual;  y[r,c] = sum[r,c] / sqrt(mean_c sum^2 + eps) * weight[c]",
    source="pre-norm residual blocks; Root Mean Square Layer Normalization, arXiv 1910.07467",
)
def add_rms_norm(b: Builder) -> Sequence[te.Tensor]:
    """Add x to the residual stream and normalise the sum; both are results. What is normalised is the unrounded sum."""
    r, c = b.dim("R"), b.dim("C")
    x, residual = b.arg("x", (r, c)), b.arg("residual", (r, c), kind(b, "residual"))
    weight = b.arg("weight", (c,), kind(b, "weight"))
    b.cost(flops=5 * r * c)

    def total(i: Expr, j: Expr) -> Expr:
        return f32(x[i, j]) + f32(residual[i, j])

    n = Normed.of((r, c), total, b.attrs["eps"])
    return [
        te.compute((r, c), lambda i, j: (n(i, j) * f32(weight[j])).astype(b.dtype), "y"),
        te.compute((r, c), lambda i, j: total(i, j).astype(kind(b, "residual")), "sum"),
    ]


@define(
    "norm.add_rms_norm_adjoint",
    attrs=ATTRS,
    math="dsum = r (g - sum r^2 mean_c(g sum)) + dres,  g = dy weight;  dweight[p] = sum of dy sum r over block p",
    source="derived from norm.add_rms_norm",
)
def add_rms_norm_adjoint(b: Builder) -> Sequence[te.Tensor]:
    """The gradient of the sum, which is that of x and of residual, and of weight in parts of 16 rows.

    `dres` is the gradient of the result `sum`, and `sum` that result: with a rounded one, gradients are those of its rounding.
    """
    r, c = b.dim("R"), b.dim("C")
    dy, dres = b.arg("dy", (r, c)), b.arg("dres", (r, c), kind(b, "residual"))
    total, weight = b.arg("sum", (r, c), kind(b, "residual")), b.arg("weight", (c,), kind(b, "weight"))
    b.cost(flops=13 * r * c)
    n = Normed.of((r, c), wide(total), b.attrs["eps"])
    du = n.pullback(lambda i, j: f32(dy[i, j]) * f32(weight[j]))
    return [
        te.compute((r, c), lambda i, j: (du(i, j) + f32(dres[i, j])).astype(kind(b, "residual")), "dsum"),
        weight_parts((r, c), lambda i, j: f32(dy[i, j]) * n(i, j), "dweight"),
    ]
