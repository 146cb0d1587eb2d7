"""The selective scan of Mamba-1: a state of N for each channel, decays from the step size; and its adjoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tvm import te, tirx

from treadle.ir.expr import Expr
from treadle.ir.ops.math import f32, silu_slope
from treadle.ir.ops.scan import ssm
from treadle.ir.program import Attr, Builder, define
from treadle.ir.scan import Index, Output, Position, Read, Scan, trace
from treadle.ir.sweep import Sweep

#: Channels of a group whose gradients of B and C are added up in one part.
PART = 32
ATTRS = {
    "state": Attr(16, choices=tuple(range(1, 257)), doc="N, the states of a channel: registers are counted by it"),
    "softplus": Attr(True, choices=(True, False), doc="whether the step is softplus(delta + delta_bias), or their sum"),
    "gate": Attr(False, choices=(False, True), doc="whether y is multiplied by silu(z)"),
}

#: The axes of the space, in order: sequence, group, channel of the group, state, time.
S, G, R, N, L = range(5)


def row(p: Position) -> tuple[Expr, ...]:
    """Where a channel's step stands."""
    return p[S], p[G], p[R], p[L]


def state(p: Position) -> tuple[Expr, ...]:
    return p[S], p[G], p[R], p[N]


class Form:
    """The arguments, the scan, and the stages around it.

    The scan writes `total`, the sum over states; no result of the Program, it stays where y is made of it.
    """

    def __init__(self, b: Builder, leading: Callable[[Form], None] = lambda form: None) -> None:
        self.b = b
        s, g, r, steps = self.rows = b.dim("S"), b.dim("G"), b.dim("R"), b.dim("L")
        n = self.n = tirx.const(b.attrs["state"], "int64")
        self.states = s, g, r, n
        leading(self)
        self.u, self.delta = b.arg("u", self.rows), b.arg("delta", self.rows)
        self.a = b.arg("A", (g, r, n), "float32")
        self.B, self.C = (b.arg(name, (s, g, n, steps)) for name in ("B", "C"))
        self.D = b.arg("D", (g, r), "float32")
        self.z = b.arg("z", self.rows) if b.attrs["gate"] else None
        self.bias = b.arg("delta_bias", (g, r), "float32")
        self.initial = b.arg("initial", self.states, "float32")
        self.total = te.placeholder(self.rows, "float32", "total")
        self.last = te.placeholder(self.states, "float32", "last")

        def step(i: Expr, g: Expr, r: Expr, t: Expr) -> Expr:
            return ssm.delta(*self.raw(i, g, r, t), lo=float("-inf"))

        traced = trace(
            space={"S": s, "G": g, "R": r, "N": n, "L": steps},
            axis="L",
            line="N",
            reads={
                "step": Read(te.compute(self.rows, step, "step"), row),
                "u": Read(self.u, row),
                "A": Read(self.a, lambda p: (p[G], p[R], p[N])),
                "B": Read(self.B, lambda p: (p[S], p[G], p[N], p[L])),
                "C": Read(self.C, lambda p: (p[S], p[G], p[N], p[L])),
            },
            step=lambda r, h: ssm.source(r.step, r.u, r.B) + ssm.decay(r.step, r.A) * h[0],
            value=lambda r, h: r.C * h,
            out="total",
            dtype="float32",
            init=Read(self.initial, state),
        )
        total = Output(self.total, row, traced.outputs[0].value)
        self.scan = replace(traced, outputs=(total,), final=Output(self.last, state, traced.carry))

    def raw(self, i: Expr, g: Expr, r: Expr, t: Expr) -> tuple[Expr, Expr, bool]:
        """What the step size is made of."""
        return f32(self.delta[i, g, r, t]), self.bias[g, r], self.b.attrs["softplus"]

    def y(self, *at: Expr) -> Expr:
        """Before the gate."""
        return self.total[at] + self.D[at[G], at[R]] * f32(self.u[at])

    def z_in(self, *at: Expr) -> Expr | None:
        return None if self.z is None else f32(self.z[at])


def _gives(scan: Scan, outputs: Sequence[tuple[te.Tensor, Index, te.Tensor]]) -> Scan:
    """The scan with more outputs: a tensor, the place in it, and the expression by rows that stands there."""
    reads, symbols, found = dict(scan.reads), dict(scan.symbols), list(scan.outputs)
    for tensor, index, made in outputs:
        name = f"{tensor.op.name}_of"
        reads[name], symbols[name] = Read(made, row), tirx.Var(name, "float32")
        found.append(Output(tensor, index, symbols[name]))
    return replace(scan, reads=reads, symbols=symbols, outputs=tuple(found))


@define(
    "scan.selective_scan",
    attrs=ATTRS,
    adjoint="scan.selective_scan_adjoint",
    math="h[t] = exp(step A) h[t-1] + (step u) B,  y[t] = sum_n C h[t] + D u, times silu(z);  step = softplus(delta + delta_bias)",
    source="Mamba, arXiv 2312.00752, algorithm 2",
)
def selective_scan(b: Builder) -> Sweep:
    """Scan S sequences of L steps in G groups of R channels, each with N states; B and C are a group's. States are float32.

    `initial` are the states before the first step, `last` those after the last.
    """
    form = Form(b)
    s, g, r, steps = form.rows
    b.cost(flops=s * g * r * steps * (7 * form.n + 4), exps=_exps(b, form))
    ssm.contracting(b, form.a)

    gated = te.compute(form.rows, lambda *at: ssm.gated(form.y(*at), form.z_in(*at)), "gated")
    y = te.placeholder(form.rows, b.dtype, "y")
    return Sweep((_gives(form.scan, [(y, row, gated)]),), (y, form.last))


@define(
    "scan.selective_scan_adjoint",
    attrs=ATTRS,
    math="dtotal = dy silu(z);  a[t] = C dtotal[t] + exp(step A)[t+1] a[t+1];  du = D dtotal + sum_n a step B;"
    "  dstep = sum_n a (u B + A exp(step A) h[t-1]);  dA = sum_t a step exp(step A) h[t-1];  dB = sum a step u;  dC = sum dtotal h",
    source="derived from scan.selective_scan by the scan combinator; states are made again",
)
def selective_scan_adjoint(b: Builder) -> Sweep:
    """Gradients of all float operands of `scan.selective_scan`, from those of y and of the last states.

    In float32 and in parts: dB and dC for every 32 channels of a group, dA, dD and ddelta_bias for each sequence.
    """
    dy: list[te.Tensor] = []

    def leading(form: Form) -> None:
        dy.append(b.arg("dy", form.rows))
        dy.append(b.arg("dlast", form.states, "float32"))

    form = Form(b, leading)
    s, g, r, steps = form.rows
    n, parts = form.n, (r + (PART - 1)) // PART
    b.cost(flops=s * g * r * steps * (24 * n + 12), exps=_exps(b, form))

    def upstream(*at: Expr) -> Expr:
        return ssm.gated(f32(dy[0][at]), form.z_in(*at))

    kept = te.placeholder(tuple(form.scan.sizes), "float32", "kept")
    again = replace(form.scan, outputs=(Output(kept, tuple, form.scan.carry), *form.scan.outputs), final=None)

    def result(name: str, shape: Sequence[Expr], dtype: str = "float32") -> te.Tensor:
        return te.placeholder(tuple(shape), dtype, name)

    def stage(name: str, value: Callable[..., Expr]) -> te.Tensor:
        return te.compute(form.rows, value, name)

    dtotal = stage("dtotal", lambda *at: ssm.gated(f32(dy[0][at]), form.z_in(*at)))
    dstep, pulled = result("dstep", form.rows), result("du_scan", form.rows)
    dB, dC = (result(name, (s, g, parts, n, steps)) for name in ("dB", "dC"))
    dA, dinitial = result("dA", form.states), result("dinitial", form.states)
    receivers = {"step": dstep, "u": pulled, "A": dA, "B": dB, "C": dC, "initial": dinitial, "last": dy[1]}
    back = form.scan.adjoint(dtotal, kept, receivers)
    own: dict[str, Index] = {"dA": state, "dB": _part, "dC": _part}
    back = replace(back, outputs=tuple(replace(o, index=own.get(o.tensor.op.name, o.index)) for o in back.outputs))

    def skipped(*at: Expr) -> Expr:
        return pulled[at] + form.D[at[G], at[R]] * dtotal[at]

    def unsquashed(*at: Expr) -> Expr:
        return dstep[at] * ssm.delta_slope(*form.raw(*at), lo=float("-inf"), hi=float("inf"))

    def ungated(*at: Expr) -> Expr:
        return f32(dy[0][at]) * silu_slope(f32(form.z[at])) * form.y(*at)

    ddelta = stage("ddelta_of", unsquashed)
    du, dz = (result(name, form.rows, b.dtype) for name in ("du", "dz"))
    dD, dbias = (result(name, form.rows[:-1]) for name in ("dD", "ddelta_bias"))
    by_rows = [
        (du, row, stage("du_of", skipped)),
        (result("ddelta", form.rows, b.dtype), row, ddelta),
        (dD, lambda p: row(p)[:-1], stage("dD_of", lambda *at: dtotal[at] * f32(form.u[at]))),
        (dbias, lambda p: row(p)[:-1], ddelta),
    ]
    if form.z is not None:
        by_rows.append((dz, row, stage("dz_of", ungated)))
    gates = [dz] if form.z is not None else []
    results = (du, by_rows[1][0], dA, dB, dC, dD, *gates, dbias, dinitial)
    return Sweep((again, _gives(back, by_rows)), results)


def _part(p: Position) -> tuple[Expr, ...]:
    return p[S], p[G], tirx.floordiv(p[R], PART), p[N], p[L]


def _exps(b: Builder, form: Form) -> Expr:
    """Of decays, softplus and silu."""
    s, g, r, steps = form.rows
    return s * g * r * steps * (b.attrs["state"] + int(b.attrs["softplus"]) + int(b.attrs["gate"]))
