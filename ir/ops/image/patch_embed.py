"""Patch embedding: a convolution whose stride equals its kernel."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te

from treadle.ir.ops.math import f32
from treadle.ir.program import Attr, Builder, define


@define(
    "image.patch_embed",
    attrs={"patch": Attr(14, minimum=1, doc="side of a square patch, in pixels")},
    math="y[n,h,w,m] = bias[m] + sum_{c,i,j} image[n,c,h*patch+i,w*patch+j] weight[m,c,i,j]",
    source="ViT, arXiv 2010.11929, section 3.1; torch.nn.functional.conv2d with stride = kernel",
)
def patch_embed(b: Builder) -> Sequence[te.Tensor]:
    """Map an image [N,C,H*patch,W*patch] to tokens [N,H,W,M]; accumulate in float32."""
    n, c, h, w, m = (b.dim(name) for name in "NCHWM")
    q = b.attrs["patch"]
    image = b.arg("image", (n, c, h * q, w * q))
    weight, bias = b.arg("weight", (m, c, q, q)), b.arg("bias", (m,))
    b.cost(flops=2 * n * h * w * m * c * q * q)
    k, i, j = te.reduce_axis((0, c), "c"), te.reduce_axis((0, q), "i"), te.reduce_axis((0, q), "j")
    total = te.compute(
        (n, h, w, m),
        lambda a, y, x, o: te.sum(f32(image[a, k, y * q + i, x * q + j]) * f32(weight[o, k, i, j]), [k, i, j]),
        "total",
    )
    return [te.compute((n, h, w, m), lambda a, y, x, o: (total[a, y, x, o] + f32(bias[o])).astype(b.dtype), "y")]
