"""Tokens to feature planes: the transposition at the end of an encoder."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te

from treadle.ir.program import Builder, define


@define(
    "image.to_planes",
    math="y[n,c,p] = x[n,p,c]",
    source="layout change; torch.Tensor.transpose(1, 2).contiguous()",
)
def to_planes(b: Builder) -> Sequence[te.Tensor]:
    """Transpose tokens [N,P,C] into planes [N,C,P]."""
    n, p, c = b.dim("N"), b.dim("P"), b.dim("C")
    x = b.arg("x", (n, p, c))
    return [te.compute((n, c, p), lambda i, j, l: x[i, l, j], "y")]
