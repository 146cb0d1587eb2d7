"""Gate normalisation of GSPN: logits to row-stochastic weights (the stability-context condition)."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from treadle.ir.ops.math import f32, sigmoid
from treadle.ir.ops.scan.gspn import ATTRS, DIRECTIONS
from treadle.ir.program import Builder, define

#: Smallest sum of sigmoids that is divided by: three logits of -16 and below no longer sum to one.
FLOOR = 1e-7


@define(
    "scan.gspn_gates",
    attrs={"direction": ATTRS["direction"]},
    math="s_k = sigmoid(logits[k]);  gates[k] = s_k / max(sum of existing s, 1e-7), and 0 where neighbour k does not exist",
    source="GSPN, arXiv 2501.12381, stability-context condition",
)
def gspn_gates(b: Builder) -> Sequence[te.Tensor]:
    """Normalise gate logits [N,3,G,H,W] so that the existing neighbours of each pixel have weights that sum to one.

    At the ends of a line the neighbour outside is left out of the sum and its gate written as 0. A line of one pixel has
    only its centre neighbour, with weight one.
    """
    n, g, h, w = (b.dim(name) for name in "NGHW")
    logits = b.arg("logits", (n, 3, g, h, w))
    along_w = DIRECTIONS[b.attrs["direction"]][1] == "W"
    b.cost(flops=12 * n * g * h * w, exps=3 * n * g * h * w)
    zero = tirx.const(0.0, "float32")

    def exists(k, i, j):
        at, size = (j, w) if along_w else (i, h)
        return tirx.all(at + k - 1 >= 0, at + k - 1 < size)

    s = te.compute(logits.shape, lambda a, k, c, i, j: sigmoid(f32(logits[a, k, c, i, j])), "s")
    total = te.compute(
        (n, g, h, w), lambda a, c, i, j: sum(tirx.Select(exists(k, i, j), s[a, k, c, i, j], zero) for k in range(3)), "total"
    )

    def gate(a, k, c, i, j):
        share = s[a, k, c, i, j] / tirx.max(total[a, c, i, j], tirx.const(FLOOR, "float32"))
        return tirx.Select(exists(k, i, j), share, zero).astype(b.dtype)

    return [te.compute(logits.shape, gate, "gates")]
