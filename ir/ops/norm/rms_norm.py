"""Root-mean-square normalisation of rows, and its adjoint."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te

from treadle.ir.ops.math import f32
from treadle.ir.ops.norm.rms import EPS, WEIGHT, Normed, kind, weight_parts, wide
from treadle.ir.program import Builder, define


@define(
    "norm.rms_norm",
    attrs={"eps": EPS, "weight": WEIGHT},
    adjoint="norm.rms_norm_adjoint",
    math="y[r,c] = x[r,c] / sqrt(mean_c x^2 + eps) * weight[c]",
    source="Root Mean Square Layer Normalization, arXiv 1910.07467",
)
def rms_norm(b: Builder) -> Sequence[te.Tensor]:
    """Normalise each of R rows of C features by its root mean square; statistics in float32."""
    r, c = b.dim("R"), b.dim("C")
    x, weight = b.arg("x", (r, c)), b.arg("weight", (c,), kind(b, "weight"))
    b.cost(flops=4 * r * c)
    n = Normed.of((r, c), wide(x), b.attrs["eps"])
    return [te.compute((r, c), lambda i, j: (n(i, j) * f32(weight[j])).astype(b.dtype), "y")]


@define(
    "norm.rms_norm_adjoint",
    attrs={"eps": EPS, "weight": WEIGHT},
    math="dx = r (g - x r^2 mean_c(g x)),  g = dy weight,  r = 1 / sqrt(mean_c x^2 + eps);  dweight[p] = sum of dy x r over block p",
    source="derived from norm.rms_norm",
)
def rms_norm_adjoint(b: Builder) -> Sequence[te.Tensor]:
    """Gradients of x and weight of `norm.rms_norm`; that of weight is float32, one part for every 16 rows."""
    r, c = b.dim("R"), b.dim("C")
    dy, x, weight = b.arg("dy", (r, c)), b.arg("x", (r, c)), b.arg("weight", (c,), kind(b, "weight"))
    b.cost(flops=12 * r * c)
    n = Normed.of((r, c), wide(x), b.attrs["eps"])
    du = n.pullback(lambda i, j: f32(dy[i, j]) * f32(weight[j]))
    return [
        te.compute((r, c), lambda i, j: du(i, j).astype(b.dtype), "dx"),
        weight_parts((r, c), lambda i, j: f32(dy[i, j]) * n(i, j), "dweight"),
    ]
