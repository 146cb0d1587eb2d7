"""Size expressions: the arithmetic a bundle may do on the sizes of its inputs.

A manifest or a plan states shapes and byte counts as text over named dims, for
example ``N*(H//14)*4``.  The grammar is exactly

    expr = int | name | expr (+ - * // %) expr | (expr) | min(expr, expr) | max(expr, expr)

and every intermediate value must be a non-negative int64, because the generated
C++ evaluates the same text in int64 and must never disagree with Python.  Parentheses,
those of min and max too, nest 64 deep at most, an expression has at most 600 integers,
names and operators, and a name is no keyword of Python's.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import NoReturn

from treadle.errors import ArgumentError, BoundsError, UnknownNameError

INT64_MAX = 2**63 - 1

# Checked before `ast` sees the text: Python accepts 1_000, 0x10, unicode names and
# line breaks, and none of them is part of the grammar that C++ reads.
_TOKENS = re.compile(r"(?: *(?:[A-Za-z_][A-Za-z0-9_]*|[0-9]+(?![A-Za-z0-9_])|//|[-+*%(),]))+ *")
_MAX_CHARS, _MAX_DEPTH, _MAX_STEPS = 2000, 64, 600
# What Python's parser takes and the grammar does not have: a comma before a parenthesis, a function's name in parentheses.
_NOT_OURS = re.compile(r", *\)|\b(?:min|max)\b(?! *\()")

_STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|//|[-+*%]")

# // and % of values in range stay in range, so only these results need a check.
_CAN_LEAVE_RANGE = (ast.Add, ast.Sub, ast.Mult)


class SizeExpr:
    """One parsed size expression; evaluating it costs about as much as the Python it spells."""

    __slots__ = ("_code", "binds", "constant", "is_name", "names", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        names: dict[str, None] = {}  # a dict keeps first-use order
        tree, code = _compile(text, names)
        #: the dims it reads, in order of first use
        self.names: tuple[str, ...] = tuple(names)
        #: True for a bare dim name, which binds that dim when it stands in an input's shape
        self.is_name = isinstance(tree, ast.Name)
        #: (name, factor) of ``NAME`` or ``NAME * INT``: an input's axis of that size tells the dim; None of all others
        self.binds: tuple[str, int] | None = _binds(tree)
        self._code = code
        #: its value when it names no dim, else None
        self.constant: int | None = None if names else self.evaluate({})

    def evaluate(self, dims: Mapping[str, int]) -> int:
        """Its value for these sizes; BoundsError when any step leaves [0, 2**63)."""
        try:
            return _ranged(self._code(dims))
        except KeyError as missing:
            raise UnknownNameError.unknown(
                "dim", missing.args[0], sorted(dims), where=f"size expression {self.text!r}"
            ) from None
        except (_OutOfRange, ZeroDivisionError) as wrong:
            raise BoundsError(
                f"size expression {self.text!r} cannot be evaluated",
                given=_sizes(self.names, dims) + f" ({wrong})",
                expected="every step between 0 and 2**63 - 1",
                hint="Use smaller sizes.",
            ) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SizeExpr) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"SizeExpr({self.text!r})"


@lru_cache(maxsize=4096)
def size_expr(text: str) -> SizeExpr:
    """`SizeExpr(text)`, parsed once per process: a model repeats few expressions many times."""
    return SizeExpr(text)


def _binds(tree: ast.expr) -> tuple[str, int] | None:
    match tree:
        case ast.Name(id=name):
            return name, 1
        case ast.BinOp(left=ast.Name(id=name), op=ast.Mult(), right=ast.Constant(value=int(factor))) if factor:
            return name, factor
    return None


class _OutOfRange(ArithmeticError):
    pass


def _ranged(value: int) -> int:
    if 0 <= value <= INT64_MAX:
        return value
    raise _OutOfRange(f"a step gives {value}")


def _compile(text: str, names: dict[str, None]) -> tuple[ast.expr, Callable[[Mapping[str, int]], int]]:
    """The expression's tree and a function of the dims; `names` receives what it reads."""
    if len(text) > _MAX_CHARS or not _TOKENS.fullmatch(text) or _NOT_OURS.search(text):
        _refuse(text)
    depths = accumulate((c == "(") - (c == ")") for c in text)
    if max(depths) > _MAX_DEPTH or len(_STEP.findall(text)) > _MAX_STEPS:
        _refuse(text)
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        body = _checked(tree, names, text)
        function = ast.parse("lambda d: 0", mode="eval")
        function.body.body = body  # type: ignore[attr-defined]
        code = compile(ast.fix_missing_locations(function), "<size expression>", "eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        _refuse(text)
    # Only whitelisted nodes reach this point, so eval runs nothing but arithmetic.
    return tree, eval(code, {"__builtins__": {}, "min": min, "max": max, "ranged": _ranged})


def _checked(node: ast.expr, names: dict[str, None], text: str) -> ast.expr:
    """The node with dims read from a mapping `d` and every growing step range-checked."""
    match node:
        case ast.Constant(value=int(value)) if value is not True and value is not False and value <= INT64_MAX:
            return node
        case ast.Name(id=name) if name not in ("min", "max"):
            names[name] = None
            return ast.Subscript(ast.Name("d", ast.Load()), ast.Constant(name), ast.Load())
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.FloorDiv() | ast.Mod()):
            left, right = _checked(node.left, names, text), _checked(node.right, names, text)
            step = ast.BinOp(left, node.op, right)
            return _call("ranged", step) if isinstance(node.op, _CAN_LEAVE_RANGE) else step
        case ast.Call(func=ast.Name(id="min" | "max" as function), args=[a, b], keywords=[]):
            return _call(function, _checked(a, names, text), _checked(b, names, text))
    _refuse(text)


def _call(function: str, *args: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(function, ast.Load()), list(args), [])


def _refuse(text: str) -> NoReturn:
    shown = text if len(text) <= 80 else text[:77] + "..."
    raise ArgumentError(
        "not a size expression",
        given=repr(shown),
        expected="non-negative integers, dim names, + - * // %, parentheses, min(a, b), max(a, b)",
    )


def _sizes(names: tuple[str, ...], dims: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={dims[name]}" for name in names) or "no dims"
