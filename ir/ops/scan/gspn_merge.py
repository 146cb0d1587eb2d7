"""Output gating and direction merge of the four GSPN scans."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te

from treadle.ir.ops.math import f32
from treadle.ir.ops.scan.gspn import DIRECTIONS
from treadle.ir.program import Attr, Builder, define


@define(
    "scan.gspn_merge",
    attrs={"skip": Attr(False, choices=(True, False), doc="whether x and d_* are added: the D-skip of the original GSPN")},
    math="y = sum_d merge[d] (u_d h_d + d_d x),  d over t2b, b2t, l2r, r2l;  d_d = 0 without skip",
    source="GSPN, arXiv 2501.12381, eq. 2 and the direction merge, orientation restored first",
)
def gspn_merge(b: Builder) -> Sequence[te.Tensor]:
    """Gate each direction's scan elementwise by u_d and merge the four with scalars, in one pass over [N,C,P] planes."""
    n, c, p = b.dim("N"), b.dim("C"), b.dim("P")
    h = [b.arg(f"h_{d}", (n, c, p)) for d in DIRECTIONS]
    u = [b.arg(f"u_{d}", (n, c, p)) for d in DIRECTIONS]
    merge = b.arg("merge", (len(DIRECTIONS),))
    skip = b.attrs["skip"]
    x = b.arg("x", (n, c, p)) if skip else None
    d = [b.arg(f"d_{d}", (n, c, p)) for d in DIRECTIONS] if skip else []
    b.cost(flops=(20 if skip else 12) * n * c * p)

    def direction(k, at):
        gated = f32(u[k][at]) * f32(h[k][at])
        return f32(merge[k]) * (gated + f32(d[k][at]) * f32(x[at]) if skip else gated)

    def merged(*at):
        return (direction(0, at) + direction(1, at) + direction(2, at) + direction(3, at)).astype(b.dtype)

    return [te.compute((n, c, p), merged, "y")]
