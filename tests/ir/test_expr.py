"""Derivatives of step expressions, against finite differences."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import tirx

from treadle.errors import ArgumentError
from treadle.ir import expr as ex

X, Y = tirx.Var("x", "float32"), tirx.Var("y", "float32")
FUNCTIONS = {
    "exp": math.exp,
    "tanh": math.tanh,
    "log": math.log,
    "sqrt": math.sqrt,
    "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
}


def number(expr, x, y):
    """Evaluate an expression tree with Python floats."""
    kind = type(expr).__name__
    if isinstance(expr, tirx.Var):
        return x if expr.same_as(X) else y
    if kind in ("FloatImm", "IntImm"):
        return float(expr.value)
    if kind == "Call":
        return FUNCTIONS[expr.op.name.removeprefix("tirx.")](number(expr.args[0], x, y))
    a, b = number(expr.a, x, y), number(expr.b, x, y)
    return {"Add": a + b, "Sub": a - b, "Mul": a * b}[kind] if kind != "Div" else a / b


def trees():
    unary = st.sampled_from([tirx.exp, tirx.tanh, tirx.sigmoid])
    return st.recursive(
        st.sampled_from([X, Y, tirx.const(2.0, "float32")]),
        lambda t: st.one_of(
            st.tuples(st.sampled_from("+-*"), t, t).map(lambda p: {"+": p[1] + p[2], "-": p[1] - p[2], "*": p[1] * p[2]}[p[0]]),
            st.tuples(unary, t).map(lambda p: p[0](p[1])),
            t.map(lambda u: u / (tirx.exp(u) + tirx.const(1.0, "float32"))),
        ),
        max_leaves=6,
    )


@given(trees(), st.floats(-1, 1), st.floats(-1, 1))
def test_derivative_equals_a_central_difference(tree, x, y):
    step = 1e-5
    try:
        want = (number(tree, x + step, y) - number(tree, x - step, y)) / (2 * step)
    except OverflowError:
        return  # three exponentials on top of each other leave float64: there is no quotient to compare with
    if abs(want) > 1e3:
        return  # the difference quotient itself is no longer accurate
    assert number(ex.derivative(tree, X), x, y) == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_max_follows_the_larger():
    larger = tirx.max(X * X, tirx.const(2.0, "float32"))
    slope = ex.derivative(larger, X)
    assert type(slope).__name__ == "Select"
    assert number(slope.true_value, 3.0, 0.0) == 6.0 and number(slope.false_value, 3.0, 0.0) == 0.0


def test_log_and_sqrt():
    assert number(ex.derivative(tirx.log(X) + tirx.sqrt(X), X), 4.0, 0.0) == pytest.approx(0.25 + 0.25)


def test_what_has_no_rule_is_refused():
    with pytest.raises(ArgumentError, match="differentiable"):
        ex.derivative(tirx.floor(X), X)
