"""The whole GSPN operator in one pass: four directions from logits, output gate, D-skip and merge. And its adjoint."""

from __future__ import annotations

from dataclasses import replace

from tvm import te, tirx

from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.ops.scan.gspn import ATTRS, DIRECTIONS
from treadle.ir.ops.scan.gspn_logits import Walk, walk
from treadle.ir.program import Attr, Builder, define
from treadle.ir.scan import Output, Position, Read, Scan
from treadle.ir.sweep import Sweep

OPERATOR = {
    "chunk": ATTRS["chunk"],
    "skip": Attr(False, choices=(True, False), doc="whether d is an argument: the D-skip of the original GSPN"),
}


def _walks(b: Builder) -> tuple[list[Walk], dict[str, te.Tensor]]:
    n, c, h, w = (b.dim(name) for name in "NCHW")
    g, four = b.dim("G", one_of=(1, c)), len(DIRECTIONS)
    args = {
        "x": b.arg("x", (n, c, h, w)),
        "lam": b.arg("lam", (n, four, c, h, w)),
        "logits": b.arg("logits", (n, four, 3, g, h, w)),
        "u": b.arg("u", (n, four, c, h, w)),
    }
    if b.attrs["skip"]:
        args["d"] = b.arg("d", (n, four, c, h, w))
    args["merge"] = b.arg("merge", (four,))
    return [_walk(b, args, (n, c, h, w, g), k) for k in range(four)], args


def _walk(b: Builder, args: dict[str, te.Tensor], sizes: tuple[Size, ...], number: int) -> Walk:
    d = tirx.const(number, "int64")

    def own(p: Position) -> tuple[Expr, ...]:
        return p[0], d, p[1], p[2], p[3]

    reads = {"x": Read(args["x"], tuple), **{name: Read(args[name], own) for name in ("lam", "u", "d") if name in args}}
    reads["merge"] = Read(args["merge"], lambda p: (d,))

    def gated(r: dict[str, Expr], h: Expr) -> Expr:
        y = r.u * h
        return r.merge * (y + r.d * r.x if b.attrs["skip"] else y)

    return walk(
        sizes, list(DIRECTIONS)[number], b.attrs["chunk"], lambda a, k, *at: args["logits"][a, d, k, *at], reads, "y", b.dtype, gated
    )


@define(
    "scan.gspn2d",
    attrs=OPERATOR,
    adjoint="scan.gspn2d_adjoint",
    math="y = sum_e merge[e] (u[e] h_e + d[e] x),  h_e = gspn(x, lam[e], gspn_gates(logits[e])) along e of t2b, b2t, l2r, r2l",
    source="GSPN, arXiv 2501.12381, eq. 1-2 and the direction merge, orientation restored first",
)
def gspn2d(b: Builder) -> Sweep:
    """The four directions of lam, u and d [N,4,C,H,W] and logits [N,4,3,G,H,W] into y [N,C,H,W], everything else on the way.

    Gates, states and gated states are float32 and never leave the core that makes them; y is rounded once.
    """
    walks, args = _walks(b)
    n, c, h, w = args["x"].shape
    each = (10 + 2 * b.attrs["skip"]) * c + 12 * b.dim("G")
    b.cost(flops=4 * each * n * h * w, exps=12 * b.dim("G") * n * h * w)
    return Sweep(tuple(k.scan for k in walks), walks[0].scan.results)


@define(
    "scan.gspn2d_adjoint",
    attrs=OPERATOR,
    math="the gradients of gspn2d: dx, dlam, dlogits, du, dd, and of merge one for each plane, dmerge[n,e,c]",
    source="derived from scan.gspn2d; gates and states are made again",
)
def gspn2d_adjoint(b: Builder) -> Sweep:
    """Gradients of `scan.gspn2d` from the gradient dy of its output and nothing else but its inputs.

    `dmerge` [N,4,C] holds what each plane adds to the gradient of merge: planes are computed apart, and their order in a sum
    is the caller's to fix. Gradients of shared logits (G = 1) are summed over channels in float32, in channel order.
    """
    n, c, h, w = (b.dim(name) for name in "NCHW")
    dy = b.arg("dy", (n, c, h, w))
    walks, args = _walks(b)
    each = (30 + 6 * b.attrs["skip"]) * c + 42 * b.dim("G")
    b.cost(flops=4 * each * n * h * w, exps=12 * b.dim("G") * n * h * w)
    results = {name: te.placeholder(t.shape, b.dtype, f"d{name}") for name, t in args.items()}
    results["merge"] = te.placeholder((n, len(DIRECTIONS), c), b.dtype, "dmerge")
    scans: list[Scan] = []
    for number, each_walk in enumerate(walks):
        d = tirx.const(number, "int64")
        again, scan = each_walk.backward(dy, results, lambda a, *at, d=d: (a, d, *at))
        scans += [again, replace(scan, outputs=tuple(_per_plane(o, d) for o in scan.outputs))]
    return Sweep(tuple(scans), tuple(results.values()))


def _per_plane(output: Output, d: Expr) -> Output:
    """The gradient of merge, which all positions share, kept apart by plane."""
    return replace(output, index=lambda p: (p[0], d, p[1])) if output.tensor.op.name == "dmerge" else output
