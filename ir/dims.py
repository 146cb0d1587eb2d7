"""Symbolic sizes: named dimensions with bounds, and the integer expressions built from them.

Sizes are TVM integer expressions (int64), as in every TVM program. Outside the compiler they travel as
strings in the small grammar of `treadle.runtime.sizes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

from tvm import ir, sym, tirx

from treadle.errors import ArgumentError, BoundsError
from treadle.ir import expr as ex

Size: TypeAlias = "int | ir.Expr"

#: Default upper bound of a dimension: beyond any line, batch or channel count in sight; products are checked per call.
DEFAULT_HI = 1 << 24

_PRIMES = (10007, 20011, 30011, 40009, 50021, 60013, 70001, 80021)
_BINARY = {"Add": "+", "Sub": "-", "Mul": "*", "FloorDiv": "//", "FloorMod": "%"}


@dataclass(frozen=True)
class Dim:
    """A named size: inclusive bounds, a step it is a multiple of, and (rarely) the only values it may take."""

    name: str
    lo: int = 1
    hi: int = DEFAULT_HI
    step: int = 1
    one_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.lo <= self.hi and self.step >= 1):
            raise BoundsError(
                f"dimension {self.name} has no legal size",
                given=f"lo={self.lo}, hi={self.hi}, step={self.step}",
                expected="0 <= lo <= hi and step >= 1",
            )

    def within(self, lo: int, hi: int) -> Dim:
        """The same dimension under tighter bounds."""
        if not self.lo <= lo <= hi <= self.hi:
            raise BoundsError(
                f"bounds of dimension {self.name}", given=f"{lo}..{hi}", expected=f"a range inside {self.lo}..{self.hi}"
            )
        return replace(self, lo=lo, hi=hi)


def var(name: str) -> tirx.Var:
    """The symbol of a dimension."""
    return tirx.Var(name, "int64")


def constant(size: Size) -> int | None:
    """The value of a size known at compile time, else None."""
    if isinstance(size, int):
        return size
    return int(size.value) if isinstance(size, tirx.IntImm) else None


def same(a: Size, b: Size, steps: Mapping[str, int] | None = None) -> bool:
    """Whether two sizes are equal for all values of their dimensions, each a multiple of its step (default 1).

    Decided by evaluation at fixed points of large, mutually prime values: sizes are low-degree polynomials with floor
    divisions by steps, and two different ones do not agree there (Schwartz-Zippel). TVM's analyzer is exact but does not
    order the factors of products of symbols, which is what shapes are.
    """
    return all(x == y for x, y in _samples(a, b, steps or {}))


def proportional(a: Size, b: Size, steps: Mapping[str, int]) -> bool:
    """Whether one size is a constant times the other, decided in the same way."""
    (x0, y0), *rest = _samples(a, b, steps)
    return all(x * y0 == y * x0 for x, y in rest)


def _samples(a: Size, b: Size, steps: Mapping[str, int]) -> list[tuple[int, int]]:
    names = sorted({v.name for v in (*symbols(a), *symbols(b))})
    points = ({n: _PRIMES[(i + k) % len(_PRIMES)] * steps.get(n, 1) for i, n in enumerate(names)} for k in range(3))
    return [(evaluate(a, p), evaluate(b, p)) for p in points]


def simplify(size: Size) -> Size:
    return size if isinstance(size, int) else sym.Analyzer().simplify(size)


def symbols(size: Size) -> list[tirx.Var]:
    """The distinct dimension symbols of a size, in order of appearance."""
    return [] if isinstance(size, int) else ex.symbols(size)


def substitute(size: Size, values: Mapping[str, Size]) -> Size:
    """Replace dimensions by name."""
    bound = {
        v: tirx.const(values[v.name], "int64") if isinstance(values[v.name], int) else values[v.name]
        for v in symbols(size)
        if v.name in values
    }
    return simplify(ex.substitute(size, bound)) if bound else size


def evaluate(size: Size, values: Mapping[str, int]) -> int:
    """The number that a size stands for; every dimension must be given."""
    try:
        return int(_compiled(text(size))(values))
    except NameError as missing:
        raise ArgumentError(
            f"size {text(size)} needs a value for dimension {missing.name!r}", given=dict(values), expected="every dimension"
        ) from None


@cache
def _compiled(source: str) -> Callable[[Mapping[str, int]], int]:
    code = compile(source, "<size>", "eval")
    return lambda values: eval(code, {"__builtins__": {}, "min": min, "max": max}, values)


def scaled_symbol(size: Size) -> tuple[str | None, int]:
    """(name, factor) of a size that is a dimension or a dimension times a number; (None, 1) of any other."""
    if isinstance(size, tirx.Var):
        return str(size.name), 1
    if type(size).__name__ == "Mul" and isinstance(size.a, tirx.Var) and (factor := constant(size.b)):
        return str(size.a.name), factor
    return None, 1


def text(size: Size) -> str:
    """A size in the grammar that plans and manifests use: names, integers, + - * // % min max."""
    bare = _text(size)
    return bare[1:-1] if bare.startswith("(") else bare


def _text(size: Size) -> str:
    value, kind = constant(size), type(size).__name__
    if value is not None:
        return str(value)
    if isinstance(size, tirx.Var):
        return str(size.name)
    if kind in _BINARY:
        return f"({_text(size.a)} {_BINARY[kind]} {_text(size.b)})"
    if kind in ("Min", "Max"):
        return f"{kind.lower()}({_text(size.a)}, {_text(size.b)})"
    raise ArgumentError("a size expression may use + - * // % min max of dimensions", given=kind)


def shape_text(shape: Sequence[Size]) -> str:
    """A shape as shown to people: [N, C, H, W]."""
    return "[" + ", ".join(text(s) for s in shape) + "]"
