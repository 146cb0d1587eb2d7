"""GSPN line scan (Generalized Spatial Propagation Network) and its adjoint."""

from __future__ import annotations

from tvm import te, tirx

from treadle.ir.dims import Size
from treadle.ir.program import Attr, Builder, define
from treadle.ir.scan import Read, Scan, trace

#: direction -> (axis walked, axis of the line, whether the walk runs toward smaller indices)
DIRECTIONS = {
    "t2b": ("H", "W", False),
    "b2t": ("H", "W", True),
    "l2r": ("W", "H", False),
    "r2l": ("W", "H", True),
}

ATTRS = {
    "direction": Attr("t2b", choices=tuple(DIRECTIONS), doc="t2b, b2t walk H with lines along W; l2r, r2l walk W"),
    "chunk": Attr(0, minimum=0, doc="steps per independent piece, counted from the scan's own start; 0 = one piece"),
}


def _dims(b: Builder) -> tuple[Size, Size, Size, Size, Size]:
    n, c, h, w = (b.dim(name) for name in "NCHW")
    return n, c, h, w, b.dim("G", one_of=(1, c))


def _scan(b: Builder) -> Scan:
    n, c, h, w, g = _dims(b)
    x, lam = b.arg("x", (n, c, h, w)), b.arg("lam", (n, c, h, w))
    gates = b.arg("gates", (n, 3, g, h, w))

    def gate(k: int) -> Read:
        """Gate k of a pixel; min(c, G - 1) is c where every channel has its own gates and 0 where all share one."""
        return Read(gates, lambda p: (p[0], tirx.const(k, "int64"), tirx.min(p[1], g - 1), p[2], p[3]), shared=((1, 2),))

    axis, line, reverse = DIRECTIONS[b.attrs["direction"]]
    b.cost(flops=7 * n * c * h * w)
    return trace(
        space={"N": n, "C": c, "H": h, "W": w},
        axis=axis,
        line=line,
        reverse=reverse,
        chunk=b.attrs["chunk"],
        reads={"x": Read(x, tuple), "lam": Read(lam, tuple), "g0": gate(0), "g1": gate(1), "g2": gate(2)},
        step=lambda r, h: r.lam * r.x + r.g0 * h[-1] + r.g1 * h[0] + r.g2 * h[1],
        out="h",
        dtype=b.dtype,
    )


@define(
    "scan.gspn",
    attrs=ATTRS,
    adjoint="scan.gspn_adjoint",
    math="h[t,l] = lam[t,l] x[t,l] + sum_k gates[k,t,l] h[t-1, l+k-1],  k = 0..2",
    source="GSPN, arXiv 2501.12381, eq. 1-2; shared gates: GSPN-2, arXiv 2512.07884",
)
def gspn(b: Builder) -> Scan:
    """Propagate along one image direction; each pixel gathers three neighbours of the line before it.

    All tensors are in image orientation. Gate k multiplies the neighbour at line offset k-1 (toward the larger image index,
    in every direction) and is indexed at the destination pixel. Neighbours outside the line or before the chunk are
    selected away. Carry and sums are float32 whatever the dtype.
    """
    return _scan(b)


@define(
    "scan.gspn_adjoint",
    attrs=ATTRS,
    math="a[t,l] = dh[t,l] + sum_k gates[k,t+1,l-k+1] a[t+1,l-k+1];  dx = lam a;  dlam = x a;  dgates[k] = a h[t-1,l+k-1]",
    source="derived from scan.gspn by the scan combinator",
)
def gspn_adjoint(b: Builder) -> Scan:
    """Gradients of `scan.gspn` with respect to x, lam and gates, from the gradient dh of its output and the output h.

    Gradients of shared gates (G = 1) are summed over the channels that share them, in float32, in channel order.
    """
    n, c, h, w, g = _dims(b)
    dh = b.arg("dh", (n, c, h, w))
    scan = _scan(b)
    saved = b.arg("h", (n, c, h, w))
    shapes = {"x": (n, c, h, w), "lam": (n, c, h, w), "gates": (n, 3, g, h, w)}
    b.cost(flops=13 * n * c * h * w)
    return scan.adjoint(dh, saved, {name: te.placeholder(shape, b.dtype, f"d{name}") for name, shape in shapes.items()})
