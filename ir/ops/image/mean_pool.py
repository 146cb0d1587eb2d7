"""Mean pooling over the positions of feature planes."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te

from treadle.ir.ops.math import f32
from treadle.ir.program import Builder, define


@define(
    "image.mean_pool",
    math="y[n,c] = 1/P sum_p x[n,c,p]",
    source="global average pooling, arXiv 1312.4400; torch.mean",
)
def mean_pool(b: Builder) -> Sequence[te.Tensor]:
    """Average planes [N,C,P] over their positions; sum in float32."""
    n, c, p = b.dim("N"), b.dim("C"), b.dim("P")
    x = b.arg("x", (n, c, p))
    b.cost(flops=n * c * p)
    k = te.reduce_axis((0, p), "p")
    total = te.compute((n, c), lambda i, j: te.sum(f32(x[i, j, k]), k), "total")
    return [te.compute((n, c), lambda i, j: (total[i, j] / p.astype("float32")).astype(b.dtype), "y")]
