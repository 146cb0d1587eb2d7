"""Operands: registers, numbers and constant expressions, vectors, pairs, addresses, each resolved in its scope."""

from __future__ import annotations

import struct
from collections.abc import Callable, Container
from math import isfinite

from treadle.codegen.ptxsim.lexer import Cursor, integer, is_name
from treadle.codegen.ptxsim.syntax import Addr, Imm, Not, Operand, Pair, Reg, Sym, Vec

_WARP_SIZE = 32
_MASK = (1 << 64) - 1
#: Binary operators of constant expressions, by how tightly they bind.
_BINDS = {"|": 1, "^": 2, "&": 3, "<<": 4, ">>": 4, "+": 5, "-": 5, "*": 6, "/": 6, "%": 6}
_APPLY: dict[str, Callable[[int, int], int]] = {
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "&": lambda a, b: a & b,
    "<<": lambda a, b: a << (b & 63) & _MASK,
    ">>": lambda a, b: a >> (b & 63),
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
    "%": lambda a, b: abs(a) % abs(b) * (-1 if a < 0 else 1),
}


class Scope:
    """The names of one `{ ... }`. Those of an inner scope are made unique in the flat function: `p` of the third is `p@3`."""

    def __init__(self, number: int = 0, outer: Scope | None = None, everywhere: Container[str] = ()) -> None:
        self.number, self.outer, self.everywhere = number, outer, everywhere
        self.own: set[str] = set()
        self.found: dict[str, Operand] = {}

    def declare(self, name: str, make: type[Reg] | type[Sym], c: Cursor, at: int) -> str:
        """Enter a register, a variable or a label; its name in the flat function."""
        if name in self.own:
            raise c.error("a name is declared twice", at, given=f"'{name}'")
        self.own.add(name)
        unique = f"{name}@{self.number}" if self.number else name
        self.found[name] = make(unique)
        return unique

    def find(self, name: str) -> Operand | None:
        """What a name or number stands for. Asked only once everything is declared, for labels are used before."""
        if (operand := self.found.get(name)) is not None:
            return operand
        if self.outer is not None:
            operand = self.outer.find(name)
        elif name == "_" or name[0] == "%":
            operand = Reg(name)  # a sink, or a special register: which there are, the binder knows
        elif name in self.everywhere:
            operand = Sym(name)
        elif name == "WARP_SZ":
            operand = Imm(_WARP_SIZE)
        else:
            return None
        if operand is not None:
            self.found[name] = operand
        return operand


def operand(c: Cursor, scope: Scope) -> Operand:
    """Take one operand of an instruction."""
    text = c.text
    if text == "[":
        return _address(c, scope)
    if text == "{":
        return vector(c, scope)
    if text == "!":
        c.at += 1
        return Not(predicate(c, scope))
    if not is_name(text):
        return _number(c)
    first = named(c, scope)
    if c.accept("|"):
        return Pair(first, named(c, scope))
    if isinstance(first, Sym) and c.text in ("+", "-"):
        return Addr(first, _offset(c))
    return first


def named(c: Cursor, scope: Scope) -> Operand:
    """Take a register or another name."""
    found = scope.find(c.word("an operand"))
    if found is None:
        raise c.error("unknown name", c.at - 1, given=f"'{c.texts[c.at - 1]}'", expected="something declared before or around")
    return found


def predicate(c: Cursor, scope: Scope) -> Reg:
    """Take a register that guards or is negated."""
    found = named(c, scope)
    if not isinstance(found, Reg):
        raise c.error("not a predicate register", c.at - 1, given=f"'{c.texts[c.at - 1]}'")
    return found


def vector(c: Cursor, scope: Scope) -> Vec:
    """Take `{a, b, ...}`."""
    c.expect("{")
    items = [operand(c, scope)]
    while c.accept(","):
        items.append(operand(c, scope))
    c.expect("}")
    return Vec(tuple(items))


def _address(c: Cursor, scope: Scope) -> Addr:
    c.expect("[")
    base = named(c, scope) if is_name(c.text) else _number(c)
    offset = _offset(c)
    rest: tuple[Operand, ...] = ()
    if c.accept(","):
        rest = vector(c, scope).items
    c.expect("]")
    return Addr(base, offset, rest)


def _offset(c: Cursor) -> int:
    total = 0
    while c.text in ("+", "-"):
        minus = c.next() == "-"
        part = constant(c, _BINDS["*"])
        if not isinstance(part, int):
            raise c.error("an offset is an integer", c.at - 1)
        total += -part if minus else part
    if not -(1 << 63) <= total < 1 << 64:
        raise c.error("an offset of more than 64 bits", c.at - 1, given=total)
    return total


def _number(c: Cursor) -> Imm:
    at = c.at
    value = constant(c)
    if isinstance(value, Imm):
        return value
    if not -(1 << 63) <= value < 1 << 64:
        raise c.error("a number of more than 64 bits", at, given=value)
    return Imm(value)


def constant(c: Cursor, least: int = 0) -> int | Imm:
    """Take a constant expression of operators that bind at least so tightly: an integer, or the bits of a float."""
    left = _atom(c)
    while _BINDS.get(op := c.text, -1) >= max(least, 1):
        at = c.at
        c.at += 1
        right = constant(c, _BINDS[op] + 1)
        if not isinstance(left, int) or not isinstance(right, int):
            raise c.error("arithmetic on float constants is not taken", at)
        if op in "/%" and not right:
            raise c.error("a constant divided by zero", at)
        left = _APPLY[op](left, right)
    return left


def _atom(c: Cursor) -> int | Imm:
    text = c.text
    if text == "(":
        c.at += 1
        value = constant(c)
        c.expect(")")
        return value
    if text in ("-", "+", "~"):
        c.at += 1
        value = _atom(c)
        if isinstance(value, int):
            return {"-": -value, "+": value, "~": ~value}[text]
        if text == "~":
            raise c.error("the complement of a float", c.at - 1)
        return Imm(value.value ^ (1 << value.float_width - 1), value.float_width) if text == "-" else value
    if not (text[:1].isdigit() or (text[:1] == "." and text[1:2].isdigit())):
        raise c.unexpected("an operand")
    c.at += 1
    if text[:2] in ("0f", "0F"):
        return Imm(int(text[2:], 16), 32)
    if text[:2] in ("0d", "0D"):
        return Imm(int(text[2:], 16), 64)
    if (whole := integer(text)) is not None:
        return whole
    if not any(mark in text for mark in ".eE") or not isfinite(number := float(text)):
        raise c.error("not a number", c.at - 1, given=f"'{text[:40]}'")
    return Imm(int.from_bytes(struct.pack("<d", number), "little"), 64)
