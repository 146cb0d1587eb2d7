"""The GSPN line scan from gate logits, normalised where they are used: the gates are never written. And its adjoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm import te, tirx

from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.ops.scan.gspn import ATTRS, DIRECTIONS
from treadle.ir.ops.scan.gspn_gates import Normalised, normalised
from treadle.ir.program import Builder, define
from treadle.ir.scan import Output, Position, Read, Scan, trace
from treadle.ir.sweep import Sweep


@dataclass(frozen=True)
class Walk:
    """One direction from its logits: the scan, and the stages that make its gates."""

    scan: Scan
    stages: Normalised
    direction: str

    def backward(self, grad: te.Tensor, results: dict[str, te.Tensor], place: Callable[..., tuple[Expr, ...]]) -> list[Scan]:
        """The scan again, its states kept, and its adjoint; gradients of gates go on to the logits at `place(n, k, g, h, w)`."""
        n, _, g, h, w = self.stages.s.shape
        kept = te.placeholder(tuple(self.scan.sizes), "float32", f"h_{self.direction}")
        dgates = te.placeholder((n, 3, g, h, w), "float32", f"dgates_{self.direction}")
        again = replace(self.scan, outputs=(Output(kept, tuple, self.scan.carry),))
        scan = self.scan.adjoint(grad, kept, {**results, self.stages.gates.op.name: dgates})

        logits, pulled = results["logits"], self.stages.pullback(dgates, "float32", f"dlogits_{self.direction}")
        axis = len(logits.shape) - 3
        reads, symbols, outputs = dict(scan.reads), dict(scan.symbols), list(scan.outputs)
        for k in range(3):
            name = f"dlogit{k}"
            reads[name] = gate(pulled, k)
            symbols[name] = tirx.Var(name, "float32")
            outputs.append(Output(logits, _at(place, reads[name]), symbols[name], ((1, axis),)))
        return [again, replace(scan, reads=reads, symbols=symbols, outputs=tuple(outputs))]


def gate(tensor: te.Tensor, k: int) -> Read:
    """Gate k of a pixel in a tensor [N,3,G,H,W]: its channel's own or, where G = 1, everybody's."""
    g = tensor.shape[2]
    return Read(tensor, lambda p: (p[0], tirx.const(k, "int64"), tirx.min(p[1], g - 1), p[2], p[3]), shared=((1, 2),))


def walk(
    sizes: tuple[Size, ...],
    direction: str,
    chunk: int,
    logits: Callable[..., Expr],
    reads: dict[str, Read],
    out: str,
    dtype: str,
    value: Callable[..., Expr] = lambda r, h: h,
) -> Walk:
    """A scan along one direction of `logits(n, k, g, h, w)`; sizes are N, C, H, W, G, and reads name at least x and lam."""
    n, c, h, w, g = sizes
    stages = normalised(logits, (n, g, h, w), direction, "float32", f"_{direction}")
    axis, line, reverse = DIRECTIONS[direction]
    scan = trace(
        space={"N": n, "C": c, "H": h, "W": w},
        axis=axis,
        line=line,
        reverse=reverse,
        chunk=chunk,
        reads={**reads, **{f"g{k}": gate(stages.gates, k) for k in range(3)}},
        step=lambda r, h: r.lam * r.x + r.g0 * h[-1] + r.g1 * h[0] + r.g2 * h[1],
        out=out,
        dtype=dtype,
        value=value,
    )
    return Walk(scan, stages, direction)


def _at(place: Callable[..., tuple[Expr, ...]], read: Read) -> Callable[[Position], tuple[Expr, ...]]:
    return lambda p: place(*read.index(p))


def _walk(b: Builder) -> tuple[Walk, dict[str, te.Tensor]]:
    n, c, h, w = (b.dim(name) for name in "NCHW")
    g = b.dim("G", one_of=(1, c))
    x, lam, logits = b.arg("x", (n, c, h, w)), b.arg("lam", (n, c, h, w)), b.arg("logits", (n, 3, g, h, w))
    reads = {"x": Read(x, tuple), "lam": Read(lam, tuple)}
    found = walk((n, c, h, w, g), b.attrs["direction"], b.attrs["chunk"], lambda *at: logits[at], reads, "h", b.dtype)
    return found, {"x": x, "lam": lam, "logits": logits}


@define(
    "scan.gspn_logits",
    attrs=ATTRS,
    adjoint="scan.gspn_logits_adjoint",
    math="h = gspn(x, lam, gspn_gates(logits))",
    source="GSPN, arXiv 2501.12381, eq. 1-2 and the stability-context condition",
)
def gspn_logits(b: Builder) -> Sweep:
    """`scan.gspn` of the gates that `scan.gspn_gates` makes of logits [N,3,G,H,W]; the gates stay where they are used.

    They are float32 whatever the dtype, where the two Programs apart round them to it.
    """
    found, args = _walk(b)
    n, c, h, w = args["x"].shape
    b.cost(flops=(7 * c + 12 * b.dim("G")) * n * h * w, exps=3 * b.dim("G") * n * h * w)
    return Sweep((found.scan,), found.scan.results)


@define(
    "scan.gspn_logits_adjoint",
    attrs=ATTRS,
    math="(dx, dlam, dgates) = gspn_adjoint(dh, x, lam, gates, h);  dlogits = gspn_gates_adjoint(logits, dgates)",
    source="derived from scan.gspn_logits; gates and states are made again",
)
def gspn_logits_adjoint(b: Builder) -> Sweep:
    """Gradients of `scan.gspn_logits` with respect to x, lam and logits, from the gradient dh of its output.

    Nothing but the inputs is kept for it: gates and h are computed again. Gradients of shared logits (G = 1) are summed over
    channels in float32, in channel order.
    """
    dh = b.arg("dh", tuple(b.dim(name) for name in "NCHW"))
    found, args = _walk(b)
    n, c, h, w = args["x"].shape
    b.cost(flops=(20 * c + 42 * b.dim("G")) * n * h * w, exps=3 * b.dim("G") * n * h * w)
    results = {name: te.placeholder(t.shape, b.dtype, f"d{name}") for name, t in args.items()}
    return Sweep(tuple(found.backward(dh, results, lambda *at: at)), tuple(results.values()))
