"""The step of a state-space model, written once: the selective scan, the chunked scan and the decode step are made of it.

    delta = clip(softplus(dt + bias), lo, hi)
    h     = exp(delta A) h + (delta x) B
    y     = sum_n C h + D x,   times silu(z)

Everything is float32 scalars; which indices each operand has (A by head, or by channel and state) is the Program's to say.
Sources: Mamba, arXiv 2312.00752, algorithm 2; Mamba-2, arXiv 2405.21060, section 6.
"""

from __future__ import annotations

from tvm import te, tirx

from treadle.ir.expr import Expr
from treadle.ir.ops.math import sigmoid, silu, softplus
from treadle.ir.program import Builder


def delta(dt: Expr, bias: Expr | None, squash: bool, lo: float = 0.0, hi: float = float("inf")) -> Expr:
    """The step size: bias added, softplus where asked for, clipped to a limit that is (0, inf) only for squashed steps."""
    step = dt if bias is None else dt + bias
    if squash:
        step = softplus(step)
    if lo > 0.0 or (lo == 0.0 and not squash):
        step = tirx.max(step, tirx.const(lo, "float32"))
    return step if hi == float("inf") else tirx.min(step, tirx.const(hi, "float32"))


def source(delta: Expr, x: Expr, b: Expr) -> Expr:
    """What a step adds to the state."""
    return (delta * x) * b


def decay(delta: Expr, a: Expr) -> Expr:
    """What a step leaves of the state."""
    return tirx.exp(delta * a)


def contracting(b: Builder, a: te.Tensor) -> None:
    """Require of all rates that their decays are decays."""
    holds = te.compute(a.shape, lambda *at: a[at] <= tirx.const(0.0, "float32"), "contracts")
    b.require(holds, "A is at most 0 everywhere")


def gated(y: Expr, z: Expr | None) -> Expr:
    return y if z is None else y * silu(z)


#: exp of less is 0 in float32, whatever it multiplies; and sums of exponents no lower than this keep their small terms.
LOWEST = -128.0


def exponent(delta: Expr, a: Expr) -> Expr:
    """What `decay` is the exponential of, for those who add up exponents before they take one exponential."""
    return tirx.max(delta * a, tirx.const(LOWEST, "float32"))


def delta_slope(dt: Expr, bias: Expr, squash: bool, lo: float, hi: float) -> Expr:
    """The derivative of `delta` by dt; a limit that is met is not passed."""
    free = dt + bias
    slope = sigmoid(free) if squash else tirx.const(1.0, "float32")
    step = softplus(free) if squash else free
    limits = [] if lo == float("-inf") else [step >= tirx.const(lo, "float32")]
    limits += [] if hi == float("inf") else [step <= tirx.const(hi, "float32")]
    if not limits:
        return slope
    return tirx.Select(tirx.all(*limits), slope, tirx.const(0.0, "float32"))
