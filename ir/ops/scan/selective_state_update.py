"""The decode step of a state-space model: states updated where they lie, a token or a few at a time."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from treadle.ir.expr import Expr
from treadle.ir.ops import random
from treadle.ir.ops.math import f32
from treadle.ir.ops.scan import slots, ssm
from treadle.ir.ops.scan.slots import Slots
from treadle.ir.program import Attr, Builder, define

STOCHASTIC = "float16_stochastic"
ATTRS = {
    "state": Attr("float32", choices=("float32", "float16", "bfloat16", STOCHASTIC), doc="dtype of the states"),
    "tied": Attr(True, choices=(True, False), doc="A, D, dt and dt_bias by head (Mamba-2), or by channel, and A by state too"),
    "softplus": Attr(True, choices=(True, False), doc="whether the step is softplus(dt + bias), or dt + bias"),
    "dt_min": Attr(0.0, minimum=0.0, doc="the least step"),
    "dt_max": Attr(float("inf"), minimum=0.0, doc="the largest step"),
    "gate": Attr(False, choices=(False, True), doc="whether y is multiplied by silu(z)"),
    "slots": slots.ATTR,
    "history": Attr(False, choices=(False, True), doc="whether the state after each token is returned too"),
}


def state_dtype(attr: str) -> str:
    return attr.removesuffix("_stochastic")


@define(
    "scan.selective_state_update",
    attrs=ATTRS,
    math="h = exp(delta A) h + (delta x) B,  y = sum_n C h + D x, times silu(z), token by token;  h = state[slots], kept there;"
    "  delta = clip(softplus(dt + dt_bias), dt_min, dt_max)",
    source="Mamba, arXiv 2312.00752; Mamba-2, arXiv 2405.21060",
)
def selective_state_update(b: Builder) -> Sequence[te.Tensor]:
    """Step S sequences on by T tokens: G groups of R heads of P channels, a state of N for each, kept in one of K slots.

    Steps are float32; between two tokens a state has the dtype it is kept in, so that T tokens are T calls of one. Rounded
    stochastically, a state's element number e gets 16 bits of Philox4x32-10, key `seed`, counter (e // 8, offset + token):
    they depend on where the state lies and on the token, on no batch.
    """
    attrs, kind = b.attrs, state_dtype(b.attrs["state"])
    s, t, g, r, p, n = (b.dim(name) for name in "STGRPN")
    k = Slots.count_of(b, s)
    heads, channels = (g, r), (g, r, p)
    own = heads if attrs["tied"] else channels

    state = b.arg("state", (k, *channels, n), kind)
    x = b.arg("x", (s, t, *channels))
    dt = b.arg("dt", (s, t, *own), "float32")
    A = b.arg("A", own if attrs["tied"] else (*channels, n), "float32")
    B, C = (b.arg(name, (s, t, g, n)) for name in ("B", "C"))
    D = b.arg("D", own, "float32")
    z = b.arg("z", (s, t, *channels)) if attrs["gate"] else None
    bias = b.arg("dt_bias", own, "float32")
    table = Slots.of(b, s)
    if attrs["state"] == STOCHASTIC:
        b.arg("seed", (tirx.const(1, "int64"),), "int64")
        b.arg("offset", (tirx.const(1, "int64"),), "int64")

    def of_own(*at: Expr) -> tuple[Expr, ...]:
        return at[: len(own)]

    # before[i, 0] = state[slot(i)], before[i, j] = kept[i, j - 1]: what a tensor expression cannot say of its own result.
    before = te.placeholder((s, t, *channels, n), kind, "before")
    noise = te.placeholder((s, t, *channels, n), "uint32", "noise")

    def step(i: Expr, j: Expr, *at: Expr) -> Expr:
        return ssm.delta(dt[(i, j, *at)], bias[at], attrs["softplus"], attrs["dt_min"], attrs["dt_max"])

    delta = te.compute((s, t, *own), step, "delta")
    shape = own if attrs["tied"] else (*channels, n)
    decay = te.compute((s, t, *shape), lambda i, j, *at: ssm.decay(delta[(i, j, *of_own(*at))], A[at]), "decay")

    def after(i: Expr, j: Expr, *at: Expr) -> Expr:
        *head, m = at
        left = decay[(i, j, *at[: len(shape)])] * f32(before[(i, j, *at)])
        return left + ssm.source(delta[(i, j, *of_own(*head))], f32(x[(i, j, *head)]), f32(B[i, j, at[0], m]))

    h = te.compute((s, t, *channels, n), after, "after")
    m = te.reduce_axis((0, n), "m")
    dot = te.compute((s, t, *channels), lambda i, j, *at: te.sum(f32(C[i, j, at[0], m.var]) * h[(i, j, *at, m.var)], m), "dot")

    def rounded(*at: Expr) -> Expr:
        return random.half(h[at], noise[at]) if attrs["state"] == STOCHASTIC else h[at].astype(kind)

    kept = te.compute((s, t, *channels, n), rounded, "kept")
    b.update(
        state,
        te.compute((s, *channels, n), lambda i, *at: kept[(i, t - 1, *at)], "last"),
        place=lambda i, *at: (table[i], *at),
        where=lambda i, *at: table.there(i),
    )

    def out(i: Expr, j: Expr, *at: Expr) -> Expr:
        total = dot[(i, j, *at)] + D[of_own(*at)] * f32(x[(i, j, *at)])
        y = ssm.gated(total, None if z is None else f32(z[(i, j, *at)]))
        return table.only(i, y, "float32").astype(b.dtype)

    ssm.contracting(b, A)
    steps = s * t * g * r
    b.cost(flops=steps * p * n * 6, exps=steps * ((1 if attrs["tied"] else p * n) + (p if attrs["gate"] else 0)))
    results = [te.compute((s, t, *channels), out, "y")]
    if attrs["history"]:
        results.append(te.compute((s, t, *channels, n), lambda i, *at: table.only(i, kept[(i, *at)], kind), "states"))
    return results
