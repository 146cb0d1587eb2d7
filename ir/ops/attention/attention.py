"""Scaled dot-product attention of every query to every key."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from treadle.ir.ops.attention.softmax import Softmax
from treadle.ir.ops.math import f32
from treadle.ir.program import Attr, Builder, define


@define(
    "attention.attention",
    attrs={
        "dim": Attr(64, minimum=1, doc="features of a head"),
        "scale": Attr(0.0, minimum=0.0, doc="what q k is multiplied by; 0 stands for 1 / sqrt(dim)"),
    },
    math="y[n,s,h] = sum_t softmax_t(scale q[n,s,h] k[n,t,h]) v[n,t,h]",
    source="Attention Is All You Need, arXiv 1706.03762; torch.nn.functional.scaled_dot_product_attention",
)
def attention(b: Builder) -> Sequence[te.Tensor]:
    """Queries q [N,S,H,dim] of N x H heads attend to keys k and values v [N,T,H,dim]; statistics and sums in float32.

    A head's features lie inside those of its token: a linear layer's rows [N,S,H*dim] are heads under another shape.
    """
    n, s, t, h, d = b.dim("N"), b.dim("S"), b.dim("T"), b.dim("H"), tirx.const(b.attrs["dim"], "int64")
    q, k, v = b.arg("q", (n, s, h, d)), b.arg("k", (n, t, h, d)), b.arg("v", (n, t, h, d))
    b.cost(flops=(4 * d + 4) * n * h * s * t, exps=n * h * s * t)

    i, j = te.reduce_axis((0, d), "i"), te.reduce_axis((0, t), "j")
    dot = te.compute((n, h, s, t), lambda a, g, x, y: te.sum(f32(q[a, x, g, i]) * f32(k[a, y, g, i]), i), "dot")
    scale = tirx.const(b.attrs["scale"] or b.attrs["dim"] ** -0.5, "float32")
    score = te.compute(dot.shape, lambda *at: dot[at] * scale, "score")
    soft = Softmax.of(score)
    mixed = te.compute((n, s, h, d), lambda a, x, g, c: te.sum(soft.power[a, g, x, j] * f32(v[a, j, g, c]), j), "mixed")
    return [te.compute(mixed.shape, lambda a, x, g, c: (mixed[a, x, g, c] / soft.total[a, g, x]).astype(b.dtype), "y")]
