"""Gated root-mean-square normalisation in groups, both orders of gate and norm, and the adjoint."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te

from treadle.ir.expr import Expr
from treadle.ir.ops.math import f32, silu, silu_slope
from treadle.ir.ops.norm.rms import EPS, WEIGHT, Normed, Row, kind, weight_parts, wide
from treadle.ir.program import Attr, Builder, define

ATTRS = {
    "eps": EPS,
    "weight": WEIGHT,
    "norm_before_gate": Attr(
        False, choices=(False, True), doc="whether x is normalised before silu(z) multiplies it, or after"
    ),
}


def _gate(z: te.Tensor) -> Row:
    return lambda *at: silu(f32(z[at]))


@define(
    "norm.rms_norm_gated",
    attrs=ATTRS,
    adjoint="norm.rms_norm_gated_adjoint",
    math="y = n(x silu(z)) weight, or n(x) weight silu(z) with norm_before_gate;  n(u) = u / sqrt(mean_s u^2 + eps) in each group",
    source="Mamba-2, arXiv 2405.21060",
)
def rms_norm_gated(b: Builder) -> Sequence[te.Tensor]:
    """Normalise each of R rows in G groups of S features, with a gate before or after; statistics in float32."""
    shape = r, g, s = b.dim("R"), b.dim("G"), b.dim("S")
    x, z, weight = b.arg("x", shape), b.arg("z", shape), b.arg("weight", (g, s), kind(b, "weight"))
    b.cost(flops=7 * r * g * s, exps=r * g * s)
    gate, before = _gate(z), b.attrs["norm_before_gate"]
    n = Normed.of(shape, wide(x) if before else lambda *at: f32(x[at]) * gate(*at), b.attrs["eps"])

    def y(*at: Expr) -> Expr:
        scaled = n(*at) * f32(weight[at[1:]])
        return (scaled * gate(*at) if before else scaled).astype(b.dtype)

    return [te.compute(shape, y, "y")]


@define(
    "norm.rms_norm_gated_adjoint",
    attrs=ATTRS,
    math="du = r (g - u r^2 mean_s(g u));  gate first: g = dy weight, dx = du silu(z), dz = du x silu'(z); norm first:"
    " g = dy weight silu(z), dx = du, dz = dy weight n silu'(z);  dweight[p] = sum of dy dy/dweight over block p",
    source="derived from norm.rms_norm_gated",
)
def rms_norm_gated_adjoint(b: Builder) -> Sequence[te.Tensor]:
    """Gradients of x, z and weight of `norm.rms_norm_gated`; that of weight is float32, one part for every 16 rows."""
    shape = r, g, s = b.dim("R"), b.dim("G"), b.dim("S")
    dy, x, z, weight = b.arg("dy", shape), b.arg("x", shape), b.arg("z", shape), b.arg("weight", (g, s), kind(b, "weight"))
    b.cost(flops=25 * r * g * s, exps=r * g * s)
    gate, before = _gate(z), b.attrs["norm_before_gate"]

    def slope(*at: Expr) -> Expr:
        return silu_slope(f32(z[at]))

    def weighted(*at: Expr) -> Expr:
        return f32(dy[at]) * f32(weight[at[1:]])

    if before:
        n = Normed.of(shape, wide(x), b.attrs["eps"])
        dx = n.pullback(lambda *at: weighted(*at) * gate(*at))
        values = {"dx": dx, "dz": lambda *at: weighted(*at) * n(*at) * slope(*at)}
        parts = weight_parts(shape, lambda *at: f32(dy[at]) * n(*at) * gate(*at), "dweight")
    else:
        n = Normed.of(shape, lambda *at: f32(x[at]) * gate(*at), b.attrs["eps"])
        du = n.pullback(weighted)
        values = {"dx": lambda *at: du(*at) * gate(*at), "dz": lambda *at: du(*at) * f32(x[at]) * slope(*at)}
        parts = weight_parts(shape, lambda *at: f32(dy[at]) * n(*at), "dweight")

    def result(name: str) -> te.Tensor:
        return te.compute(shape, lambda *at: values[name](*at).astype(b.dtype), name)

    return [result("dx"), result("dz"), parts]
