"""The decode step of the causal convolution: a few new steps against a state that keeps the last ones, where it lies."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from treadle.ir.expr import Expr
from treadle.ir.ops.math import f32, silu
from treadle.ir.ops.scan import causal_conv1d, slots
from treadle.ir.ops.scan.slots import Slots
from treadle.ir.program import Attr, Builder, define

ATTRS = {
    **{name: causal_conv1d.ATTRS[name] for name in ("layout", "width", "activation")},
    "ring": Attr(
        False, choices=(False, True), doc="whether step t of a sequence stands at t modulo W, or the last one at W - 1"
    ),
    "slots": slots.ATTR,
}


@define(
    "scan.causal_conv1d_update",
    attrs=ATTRS,
    math="y[t] = act(bias + sum_k weight[k] past[t+k]),  k < width,  past = the last width - 1 steps kept in state[slots], then x;"
    "  x is kept there, its last W steps at most",
    source="Mamba, arXiv 2312.00752",
)
def causal_conv1d_update(b: Builder) -> Sequence[te.Tensor]:
    """Convolve S sequences on by L steps; a state keeps the last W >= width - 1 steps of D channels.

    In a ring, `position` says how many steps a sequence had before: step t stands at t modulo W. Otherwise the steps kept
    move up, and the newest is the last. weight [width,D] and bias are float32, as sums are.
    """
    layout, w, ring = b.attrs["layout"], b.attrs["width"], b.attrs["ring"]
    s, steps, d, kept = b.dim("S"), b.dim("L"), b.dim("D"), b.dim("W", lo=w - 1)

    def place(*at: Expr) -> tuple[Expr, ...]:
        """(sequence, step, channel) as memory orders them, and back."""
        return at if layout == "bld" else (at[0], at[2], at[1])

    x = b.arg("x", place(s, steps, d))
    state = b.arg("state", place(Slots.count_of(b, s), kept, d))
    weight, bias = b.arg("weight", (tirx.const(w, "int64"), d), "float32"), b.arg("bias", (d,), "float32")
    position = b.arg("position", (s,), "int32") if ring else None
    table = Slots.of(b, s)

    def column(i: Expr, t: Expr) -> Expr:
        """Where step t of the new ones, or of those before at t < 0, stands in the state."""
        if position is None:
            return t + kept
        # Positions begin at 0; W more keep the remainder of the steps before positive.
        return tirx.floormod(position[i].astype("int64") + t + kept, kept)

    def past(*at: Expr) -> Expr:
        i, t, c = place(*at)
        here = t - (w - 1)
        old = state[place(table[i], column(i, here), c)]
        return tirx.if_then_else(here < 0, f32(old), f32(x[place(i, here, c)]))

    stated = te.compute(place(s, steps + (w - 1), d), past, "past")

    def pre(*at: Expr) -> Expr:
        i, t, c = place(*at)
        total = bias[c]
        for k in range(w):
            total = total + weight[k, c] * stated[place(i, t + k, c)]
        return total

    summed = te.compute(place(s, steps, d), pre, "pre")

    def y(*at: Expr) -> Expr:
        u = summed[at]
        found = silu(u) if b.attrs["activation"] == "silu" else u
        return table.only(place(*at)[0], found, "float32").astype(b.dtype)

    # A ring takes the new steps, of which only the last W stay. Otherwise every step kept is one from further on.
    def moved(*at: Expr) -> Expr:
        i, q, c = place(*at)
        t = q + steps - kept
        return tirx.if_then_else(t < 0, state[place(table[i], q + steps, c)], x[place(i, t, c)])

    def into(*at: Expr) -> tuple[Expr, ...]:
        i, q, c = place(*at)
        return place(table[i], q if position is None else column(i, q), c)

    def written(*at: Expr) -> Expr:
        i, q, _ = place(*at)
        return table.there(i) if position is None else tirx.all(table.there(i), q >= steps - kept)

    value = (
        te.compute(place(s, kept, d), moved, "moved")
        if position is None
        else te.compute(place(s, steps, d), lambda *at: x[at], "new")
    )
    b.update(state, value, into, written)
    if position is not None:
        b.require(te.compute((s,), lambda i: position[i] >= 0, "begun"), "positions are 0 or more")
    b.cost(flops=(2 * w + 1) * s * steps * d, exps=s * steps * d if b.attrs["activation"] == "silu" else 0)
    return [te.compute(place(s, steps, d), y, "y")]
