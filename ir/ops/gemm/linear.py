"""A linear layer over positions, in any mixture of row and plane layouts."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te

from treadle.ir.ops.math import ACTIVATIONS, f32
from treadle.ir.program import Attr, Builder, define

LAYOUTS = ("rows", "planes")


@define(
    "gemm.linear",
    attrs={
        "activation": Attr("none", choices=tuple(ACTIVATIONS), doc="applied to the sum, before the residual"),
        "bias": Attr(True, choices=(True, False), doc="whether bias [M] is added"),
        "residual": Attr(False, choices=(True, False), doc="whether an argument shaped like y is added last"),
        "x_layout": Attr("rows", choices=LAYOUTS, doc="x as rows [N,P,K] or planes [N,K,P]"),
        "y_layout": Attr("rows", choices=LAYOUTS, doc="y as rows [N,P,M] or planes [N,M,P]"),
    },
    math="y[n,p,m] = activation(sum_k x[n,p,k] weight[m,k] + bias[m]) + residual[n,p,m]",
    source="torch.nn.functional.linear; with planes on both sides a 1x1 convolution",
)
def linear(b: Builder) -> Sequence[te.Tensor]:
    """Multiply each of N x P positions by weight [M,K]; accumulate in float32.

    Rows keep the features of a position together (tokens), planes keep the positions of a feature together (images). The
    layouts are part of the contract because they name memory that others read; the product is the same.
    """
    n, p, k, m = b.dim("N"), b.dim("P"), b.dim("K"), b.dim("M")
    x_rows, y_rows = b.attrs["x_layout"] == "rows", b.attrs["y_layout"] == "rows"
    x = b.arg("x", (n, p, k) if x_rows else (n, k, p))
    weight = b.arg("weight", (m, k))
    bias = b.arg("bias", (m,)) if b.attrs["bias"] else None
    shape = (n, p, m) if y_rows else (n, m, p)
    residual = b.arg("residual", shape) if b.attrs["residual"] else None
    act = ACTIVATIONS[b.attrs["activation"]]
    exps = n * p * m if b.attrs["activation"] == "gelu_tanh" else 0
    b.cost(flops=2 * n * p * m * k, exps=exps)

    r = te.reduce_axis((0, k), "k")

    def product(i, j, l):
        pos, out = (j, l) if y_rows else (l, j)
        left = x[i, pos, r] if x_rows else x[i, r, pos]
        return te.sum(f32(left) * f32(weight[out, r]), r)

    total = te.compute(shape, product, "total")

    def finish(i, j, l):
        value = total[i, j, l]
        if bias is not None:
            value = value + f32(bias[l if y_rows else j])
        value = act(value)
        if residual is not None:
            value = value + f32(residual[i, j, l])
        return value.astype(b.dtype)

    return [te.compute(shape, finish, "y")]
