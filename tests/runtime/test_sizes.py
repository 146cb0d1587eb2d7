"""Size expressions: equal to Python where legal, refused where not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.errors import ArgumentError, BoundsError, UnknownNameError
from treadle.runtime.sizes import INT64_MAX, SizeExpr

NAMES = ("N", "H", "W_2")
ATOMS = st.one_of(st.sampled_from(NAMES), st.integers(0, 50).map(str), st.just(str(2**62)))


def _combine(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    infix = st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
    call = st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]},{t[2]})")
    return infix | call


def _python(text: str, dims: dict[str, int]) -> int | None:
    """Python's value, or None where a step leaves int64 or divides by zero: an independent statement."""

    class Checked(int):
        def _wrap(self, value: int) -> Checked:
            if not 0 <= value <= INT64_MAX:
                raise ArithmeticError
            return Checked(value)

        def __add__(self, other: int) -> Checked:
            return self._wrap(int(self) + int(other))

        def __sub__(self, other: int) -> Checked:
            return self._wrap(int(self) - int(other))

        def __mul__(self, other: int) -> Checked:
            return self._wrap(int(self) * int(other))

        def __floordiv__(self, other: int) -> Checked:
            return self._wrap(int(self) // int(other))

        def __mod__(self, other: int) -> Checked:
            return self._wrap(int(self) % int(other))

    import re

    wrapped = re.sub(r"\b\d+\b", lambda m: f"C({m[0]})", text)
    try:
        return int(eval(wrapped, {"C": Checked, **{name: Checked(value) for name, value in dims.items()}}))
    except ArithmeticError:
        return None


@given(st.recursive(ATOMS, _combine, max_leaves=8), st.tuples(*[st.integers(0, 100)] * 3))
def test_equal_to_python(text: str, values: tuple[int, int, int]) -> None:
    dims = dict(zip(NAMES, values, strict=True))
    want = _python(text, dims)
    try:
        expr = SizeExpr(text)
        assert set(expr.names) <= set(NAMES) and (expr.constant is None) == bool(expr.names)
        assert expr.evaluate(dims) == want
    except BoundsError:
        assert want is None


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "N**2", "N/2", "-1", "-N", "+N", "~N", "1.5", "1e3", "0x10", "1_0", "007", "'N'", "True"),
        *("N.x", "N[0]", "f(N)", "min(N)", "min(1,2,3)", "min", "max + 1", "min(*N)", "min(a=1,b=2)"),
        *("N if N else 1", "N < 2", "N == 2", "N and 2", "lambda: 1", "[N]", "(N,)", "N\n+1", "N;1", "\u00f1"),
        *("N :=1", "__import__('os')", "N @ N", "N << 1", "N | 1", str(2**63)),
        *("(" * 300 + "1" + ")" * 300, "+".join(["N"] * 5000)),
    ],
)
def test_refuses_everything_else(text: str) -> None:
    with pytest.raises(ArgumentError, match="not a size expression"):
        SizeExpr(text)


@given(st.text(alphabet="NH019+-*/%(), minax._=[]'\"\n", max_size=24))
def test_arbitrary_text_is_parsed_or_refused(text: str) -> None:
    try:
        value = SizeExpr(text).evaluate({"N": 3, "H": 5})
    except (ArgumentError, BoundsError, UnknownNameError):
        return
    assert 0 <= value <= INT64_MAX


def test_overflow_in_a_step_is_caught_even_if_the_result_fits() -> None:
    with pytest.raises(BoundsError, match=r"'N\*N//N'.*N=4294967296"):
        SizeExpr("N*N//N").evaluate({"N": 2**32})
    with pytest.raises(BoundsError, match="a step gives -1"):
        SizeExpr("N-1+1").evaluate({"N": 0})
    with pytest.raises(BoundsError):
        SizeExpr("N//M").evaluate({"N": 1, "M": 0})


def test_missing_dim_is_named() -> None:
    with pytest.raises(UnknownNameError, match="unknown dim: given 'H', expected one of N"):
        SizeExpr("N*H").evaluate({"N": 1})


def test_properties() -> None:
    expr = SizeExpr("N*(H//14)*4")
    assert (expr.names, expr.is_name, expr.constant) == (("N", "H"), False, None)
    assert expr.evaluate({"N": 1, "H": 29}) == 8
    assert SizeExpr("N").is_name and not SizeExpr("(N+0)").is_name
    assert SizeExpr("2*3").constant == 6
    assert SizeExpr("+".join(["N"] * 300)).evaluate({"N": 1}) == 300


@pytest.mark.parametrize(
    ("text", "binds"),
    [
        *[("H", ("H", 1)), ("H * 14", ("H", 14)), ("(H*14)", ("H", 14))],
        *[(text, None) for text in ("H*0", "14*H", "H*W", "H+14", "14")],
    ],
)
def test_what_a_size_tells_of_a_dim(text: str, binds: tuple[str, int] | None) -> None:
    assert SizeExpr(text).binds == binds
