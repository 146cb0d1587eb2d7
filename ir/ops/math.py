"""Scalar mathematics that several Programs share, in float32 whatever their dtype."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx

from treadle.ir.expr import Expr

#: sqrt(2 / pi) and the cubic coefficient of the tanh form of GELU (Hendrycks and Gimpel, arXiv 1606.08415).
_GELU_SCALE = math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715


def f32(x: Expr) -> Expr:
    return x.astype("float32")


def sigmoid(x: Expr) -> Expr:
    return 1.0 / (1.0 + tirx.exp(-x))


def sigmoid_slope(s: Expr) -> Expr:
    """The derivative of the sigmoid where its value is s. From exp(-x), which overflows below -88, it would be 0 * inf."""
    return s * (1.0 - s)


def silu(x: Expr) -> Expr:
    return x * sigmoid(x)


def silu_slope(x: Expr) -> Expr:
    s = sigmoid(x)
    return s + x * sigmoid_slope(s)


def softplus(x: Expr) -> Expr:
    """log(1 + e^x) = max(x, 0) + log(1 + e), e = exp(-|x|) <= 1; its derivative is the sigmoid.

    log(1 + e) = 2 artanh(s), s = e / (2 + e) <= 1/3, by the first seven terms of its series: the next is 1.4e-8 of the
    value, where log(1 + e) in float32 would lose all of e below x = -17.
    """
    e = tirx.exp(-tirx.abs(x))
    s = e / (2.0 + e)
    series: Expr = tirx.const(1.0 / 13, "float32")
    for odd in (11, 9, 7, 5, 3, 1):
        series = series * (s * s) + tirx.const(1.0 / odd, "float32")
    return tirx.max(x, tirx.const(0.0, "float32")) + 2.0 * s * series


def gelu_tanh(x: Expr) -> Expr:
    """x/2 (1 + tanh u) with u = sqrt(2/pi) (x + 0.044715 x^3); since (1 + tanh u)/2 = sigmoid(2u), one exponential."""
    return x * sigmoid(2.0 * _GELU_SCALE * (x + _GELU_CUBIC * x * x * x))


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {"none": lambda x: x, "gelu_tanh": gelu_tanh}
