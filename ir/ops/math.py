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

    The rounding of w = 1 + e is given back, (e - (w - 1)) / w, or all of e is lost below x = -17.
    """
    e = tirx.exp(-tirx.abs(x))
    w = 1.0 + e
    return tirx.max(x, tirx.const(0.0, "float32")) + (tirx.log(w) + (e - (w - 1.0)) / w)


def gelu_tanh(x: Expr) -> Expr:
    """x/2 (1 + tanh u) with u = sqrt(2/pi) (x + 0.044715 x^3); since (1 + tanh u)/2 = sigmoid(2u), one exponential."""
    return x * sigmoid(2.0 * _GELU_SCALE * (x + _GELU_CUBIC * x * x * x))


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {"none": lambda x: x, "gelu_tanh": gelu_tanh}
