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


def gelu_tanh(x: Expr) -> Expr:
    """x/2 (1 + tanh u) with u = sqrt(2/pi) (x + 0.044715 x^3); since (1 + tanh u)/2 = sigmoid(2u), one exponential."""
    return x * sigmoid(2.0 * _GELU_SCALE * (x + _GELU_CUBIC * x * x * x))


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {"none": lambda x: x, "gelu_tanh": gelu_tanh}
