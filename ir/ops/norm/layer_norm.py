"""Layer normalisation over the last axis."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from treadle.ir.ops.math import f32
from treadle.ir.program import Attr, Builder, define


@define(
    "norm.layer_norm",
    attrs={"eps": Attr(1e-6, minimum=0.0, doc="added to the variance")},
    math="y[r,c] = (x[r,c] - mean_c x) / sqrt(mean_c (x - mean)^2 + eps) * weight[c] + bias[c]",
    source="Layer Normalization, arXiv 1607.06450; torch.nn.functional.layer_norm",
)
def layer_norm(b: Builder) -> Sequence[te.Tensor]:
    """Normalise each of R rows of C features; statistics in float32, variance from centred values (two passes)."""
    r, c = b.dim("R"), b.dim("C")
    x, weight, bias = b.arg("x", (r, c)), b.arg("weight", (c,)), b.arg("bias", (c,))
    b.cost(flops=8 * r * c)
    count = c.astype("float32")

    k1, k2 = te.reduce_axis((0, c), "k"), te.reduce_axis((0, c), "k")
    total = te.compute((r,), lambda i: te.sum(f32(x[i, k1]), k1), "total")
    square = te.compute(
        (r,), lambda i: te.sum((f32(x[i, k2]) - total[i] / count) * (f32(x[i, k2]) - total[i] / count), k2), "square"
    )

    def normalise(i, j):
        centred = f32(x[i, j]) - total[i] / count
        scaled = centred / tirx.sqrt(square[i] / count + tirx.const(b.attrs["eps"], "float32"))
        return (scaled * f32(weight[j]) + f32(bias[j])).astype(b.dtype)

    return [te.compute((r, c), normalise, "y")]
