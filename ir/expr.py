"""Scalar expressions: substitution, free symbols and the derivative that adjoint scans are made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tvm_ffi
from tvm import ir, tirx

from treadle.errors import ArgumentError

Expr = ir.Expr

#: d f(u) / d u of the unary functions a scan step may use, as a function of the operand u and of f(u).
_DERIVATIVES: dict[str, Callable[[Expr, Expr], Expr]] = {
    "tirx.exp": lambda u, f: f,
    "tirx.sigmoid": lambda u, f: f * (_one(u) - f),
    "tirx.tanh": lambda u, f: _one(u) - f * f,
    "tirx.log": lambda u, f: _one(u) / u,
    "tirx.sqrt": lambda u, f: tirx.const(0.5, u.ty) / f,
}


def substitute(expr: Expr, values: Mapping[tirx.Var, Expr]) -> Expr:
    """Replace symbols by expressions, by identity of the symbol."""
    pairs = list(values.items())

    def swap(v: tirx.Var) -> Expr:
        return next((e for s, e in pairs if s.same_as(v)), v)

    return tvm_ffi.structural_map(expr, (tirx.Var, swap))


def symbols(expr: Expr) -> list[tirx.Var]:
    """The distinct symbols of an expression, in order of appearance."""
    found: list[tirx.Var] = []

    def visit(v: tirx.Var) -> None:
        if not any(v.same_as(f) for f in found):
            found.append(v)

    tvm_ffi.structural_walk(expr, (tirx.Var, visit))
    return found


def depends(expr: Expr, v: tirx.Var) -> bool:
    return any(v.same_as(s) for s in symbols(expr))


def is_const(expr: Expr, value: float) -> bool:
    return isinstance(expr, (tirx.FloatImm, tirx.IntImm)) and float(expr.value) == value


def add(a: Expr, b: Expr) -> Expr:
    return b if is_const(a, 0) else a if is_const(b, 0) else a + b


def mul(a: Expr, b: Expr) -> Expr:
    if is_const(a, 0) or is_const(b, 0):
        return tirx.const(0.0, a.ty)
    return b if is_const(a, 1) else a if is_const(b, 1) else a * b


def derivative(expr: Expr, v: tirx.Var) -> Expr:
    """d expr / d v, for the arithmetic that a scan step may contain."""
    zero = tirx.const(0.0, expr.ty)
    if isinstance(expr, tirx.Var):
        return tirx.const(1.0, expr.ty) if expr.same_as(v) else zero
    if not depends(expr, v):
        return zero
    kind = type(expr).__name__
    if kind in ("Add", "Sub", "Mul", "Div"):
        da, db = derivative(expr.a, v), derivative(expr.b, v)
        if kind == "Add":
            return add(da, db)
        if kind == "Sub":
            return da if is_const(db, 0) else da - db
        if kind == "Mul":
            return add(mul(da, expr.b), mul(expr.a, db))
        return da / expr.b if is_const(db, 0) else (da - expr * db) / expr.b
    if kind == "Max":
        return tirx.Select(expr.a >= expr.b, derivative(expr.a, v), derivative(expr.b, v))
    if kind == "Call" and expr.op.name in _DERIVATIVES:
        (u,) = expr.args
        return mul(_DERIVATIVES[expr.op.name](u, expr), derivative(u, v))
    raise ArgumentError(
        "a scan step must be differentiable",
        given=f"{kind} of {v.name}: {expr}",
        expected="+ - * / max exp sigmoid tanh log sqrt of its reads",
    )


def _one(like: Expr) -> Expr:
    return tirx.const(1.0, like.ty)
