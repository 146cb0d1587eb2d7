"""Causal depthwise convolution along time, with an activation, states and packed sequences; and its adjoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import te, tirx

from treadle.ir import expr as ex
from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.ops.math import f32, silu, silu_slope
from treadle.ir.program import Attr, Builder, define

#: Steps whose weight gradients are added up in one part.
CHUNK = 256
ATTRS = {
    "layout": Attr("bld", choices=("bld", "bdl"), doc="the order of batch, time (l) and channel (d) in memory"),
    "width": Attr(4, choices=(2, 3, 4), doc="taps"),
    "activation": Attr("silu", choices=("silu", "none"), doc="applied to the sum of the taps and the bias"),
    "packed": Attr(False, choices=(False, True), doc="whether seq_idx says which sequence each step belongs to"),
}


@dataclass(frozen=True)
class Conv:
    """The operands and stages of the convolution; `place` orders (batch, time, channel) as memory does.

    past[s] is what is convolved: `initial` for s < width - 1, then x. same[t,k] says whether tap k of step t belongs to the
    sequence of t; what was before the first step belongs to the first step's.
    """

    layout: str
    width: int
    sizes: tuple[Size, Size, Size]
    x: te.Tensor
    weight: te.Tensor
    past: te.Tensor
    same: te.Tensor | None
    pre: te.Tensor

    def place(self, b: Expr | Size, t: Expr | Size, d: Expr | Size) -> tuple[Expr, ...]:
        return (b, t, d) if self.layout == "bld" else (b, d, t)

    def compute(self, steps: Size, value: Callable[[Expr, Expr, Expr], Expr], name: str) -> te.Tensor:
        """A tensor of so many steps, by batch, time and channel."""
        b, _, d = self.sizes
        return te.compute(self.place(b, steps, d), lambda *at: value(*self.place(*at)), name)

    def tap(self, b: Expr, t: Expr, k: int, value: Expr) -> Expr:
        """A value that counts where tap k of step t is of its sequence."""
        if self.same is None:
            return value
        return tirx.Select(self.same[b, t, tirx.const(k, "int64")], value, tirx.const(0.0, "float32"))


def _conv(b: Builder, leading: Sequence[str] = ()) -> tuple[Conv, dict[str, te.Tensor]]:
    """Ask for the operands and state the sum; `leading` names arguments of x's shape that come first."""
    layout, w = b.attrs["layout"], b.attrs["width"]
    n, steps, d = sizes = b.dim("B"), b.dim("L"), b.dim("D")

    def place(*at: Expr) -> tuple[Expr, ...]:
        return at if layout == "bld" else (at[0], at[2], at[1])

    first = {name: b.arg(name, place(*sizes)) for name in leading}
    x = b.arg("x", place(*sizes))
    weight, bias = b.arg("weight", (tirx.const(w, "int64"), d), "float32"), b.arg("bias", (d,), "float32")
    initial = b.arg("initial", place(n, tirx.const(w - 1, "int64"), d))
    seq = b.arg("seq_idx", (n, steps), "int32") if b.attrs["packed"] else None

    def past(*at: Expr) -> Expr:
        i, s, c = place(*at)
        return tirx.if_then_else(s >= w - 1, f32(x[place(i, s - (w - 1), c)]), f32(initial[place(i, s, c)]))

    def same(i: Expr, t: Expr, k: Expr) -> Expr:
        return seq[i, t] == seq[i, tirx.max(t + k - (w - 1), tirx.const(0, "int64"))]

    stated = te.compute(place(n, steps + (w - 1), d), past, "past")
    alike = None if seq is None else te.compute((n, steps, w), same, "same")
    conv = Conv(layout, w, sizes, x, weight, stated, alike, stated)

    def pre(i: Expr, t: Expr, c: Expr) -> Expr:
        total = bias[c]
        for k in range(w):
            total = total + weight[k, c] * conv.tap(i, t, k, stated[place(i, t + k, c)])
        return total

    made = conv.compute(steps, pre, "pre")
    return Conv(layout, w, sizes, x, weight, stated, alike, made), first


def _activate(b: Builder, u: Expr) -> Expr:
    return silu(u) if b.attrs["activation"] == "silu" else u


def _slope(b: Builder, u: Expr) -> Expr:
    """The derivative of the activation."""
    return silu_slope(u) if b.attrs["activation"] == "silu" else tirx.const(1.0, "float32")


@define(
    "scan.causal_conv1d",
    attrs=ATTRS,
    adjoint="scan.causal_conv1d_adjoint",
    math="y[t] = act(bias + sum_k weight[k] past[t+k]),  k < width,  past = initial then x; taps of other sequences count 0",
    source="Mamba, arXiv 2312.00752",
)
def causal_conv1d(b: Builder) -> Sequence[te.Tensor]:
    """Convolve each of D channels along L steps with its own taps; weight [width,D] and bias are float32, as sums are."""
    conv, _ = _conv(b)
    n, steps, d = conv.sizes
    b.cost(flops=(2 * conv.width + 1) * n * steps * d, exps=n * steps * d if b.attrs["activation"] == "silu" else 0)

    def y(i: Expr, t: Expr, c: Expr) -> Expr:
        return _activate(b, conv.pre[conv.place(i, t, c)]).astype(b.dtype)

    return [conv.compute(steps, y, "y")]


@define(
    "scan.causal_conv1d_adjoint",
    attrs=ATTRS,
    math="g = dy act'(pre);  dpast[s] = sum_k weight[k] g[s-k];  dx and dinitial are its parts;"
    "  dweight[b,p,k] = sum of g[t] past[t+k], dbias[b,p] = sum of g[t] over 256 steps of a sequence",
    source="derived from scan.causal_conv1d",
)
def causal_conv1d_adjoint(b: Builder) -> Sequence[te.Tensor]:
    """Gradients of all float operands of `scan.causal_conv1d`; those of weight and bias in parts, for each batch and 256 steps."""
    conv, leading = _conv(b, ["dy"])
    dy, w = leading["dy"], conv.width
    n, steps, d = conv.sizes
    b.cost(flops=(6 * w + 8) * n * steps * d, exps=n * steps * d if b.attrs["activation"] == "silu" else 0)
    zero = tirx.const(0.0, "float32")

    def g(i: Expr, t: Expr, c: Expr) -> Expr:
        at = conv.place(i, t, c)
        return f32(dy[at]) * _slope(b, conv.pre[at])

    slope = conv.compute(steps, g, "g")

    def around(i: Expr, u: Expr, c: Expr) -> Expr:
        t = u - (w - 1)
        return tirx.if_then_else(tirx.all(t >= 0, t < steps), slope[conv.place(i, t, c)], zero)

    wide = conv.compute(steps + 2 * (w - 1), around, "g_around")

    def dpast(i: Expr, s: Expr, c: Expr) -> Expr:
        total = zero
        for k in range(w):
            total = ex.add(total, conv.weight[k, c] * conv.tap(i, s - k, k, wide[conv.place(i, s + (w - 1) - k, c)]))
        return total

    spread = conv.compute(steps + (w - 1), dpast, "dpast")
    parts = (steps + (CHUNK - 1)) // CHUNK

    def part(value: Callable[[Expr], Expr], p: Expr) -> Expr:
        q = te.reduce_axis((0, CHUNK), "q")
        t = p * CHUNK + q.var
        return te.sum(tirx.if_then_else(t < steps, value(t), zero), q)

    def dweight(i: Expr, p: Expr, k: Expr, c: Expr) -> Expr:
        def term(t: Expr) -> Expr:
            here = slope[conv.place(i, t, c)] * conv.past[conv.place(i, t + k, c)]
            return here if conv.same is None else tirx.Select(conv.same[i, t, k], here, zero)

        return part(term, p)

    return [
        conv.compute(steps, lambda i, t, c: spread[conv.place(i, t + (w - 1), c)].astype(b.dtype), "dx"),
        conv.compute(tirx.const(w - 1, "int64"), lambda i, s, c: spread[conv.place(i, s, c)].astype(b.dtype), "dinitial"),
        te.compute((n, parts, w, d), dweight, "dweight"),
        te.compute((n, parts, d), lambda i, p, c: part(lambda t: slope[conv.place(i, t, c)], p), "dbias"),
    ]
