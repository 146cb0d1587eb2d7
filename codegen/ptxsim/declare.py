"""Declarations: the variables of every space, with types, alignment, dimensions and initial values."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from math import prod

from treadle.codegen.ptxsim.lexer import Cursor
from treadle.codegen.ptxsim.operands import constant
from treadle.codegen.ptxsim.syntax import Imm, Variable

#: Bits of each type that a variable can have.
WIDTHS = {f"{kind}{width}": width for kind in "bus" for width in (8, 16, 32, 64)}
WIDTHS |= {"b128": 128, "f16": 16, "f32": 32, "f64": 64}
REGISTER_TYPES = frozenset(WIDTHS) | {"pred", "f16x2"}
#: More than any function can use; a damaged count must not fill the memory.
MOST_REGISTERS = 1 << 20
_MOST_BYTES, _MOST_INITIALISED = 1 << 40, 1 << 28
_SPACES = (".const", ".global", ".local", ".shared")


def variables(c: Cursor, space: str, *, extern: bool = False) -> list[Variable]:
    """What stands after `.global`, `.shared` and so on, up to and with the semicolon."""
    found = list(_declared(c, space, extern))
    c.expect(";")
    return found


def parameter(c: Cursor) -> Variable:
    """One parameter of a function: `.param` with or without size, or `.reg`."""
    if c.accept(".reg"):
        return Variable("reg", type=register_type(c), name=c.word("a parameter's name"))
    c.expect(".param")
    return next(_declared(c, "param", False))


def register_type(c: Cursor) -> str:
    """Take a type that a register can have."""
    text = c.text
    if text[1:] not in REGISTER_TYPES or text[0] != ".":
        raise c.unexpected("a register's type")
    c.at += 1
    return text[1:]


def _declared(c: Cursor, space: str, extern: bool) -> Iterator[Variable]:
    align, vector = 0, 1
    while (text := c.text)[1:] not in WIDTHS:
        if text == ".align":
            align = _alignment(c)
        elif re.fullmatch(r"\.v[248]", text):
            c.at += 1
            vector = int(text[2])
        else:
            raise c.unexpected(f"a type, .align or .v2 of a {space} variable")
    kind = c.next()[1:]
    if space == "param" and c.accept(".ptr"):  # of what the pointer points to, which is not the parameter's
        if c.text in _SPACES:
            c.at += 1
        if c.text == ".align":
            _alignment(c)
    size = WIDTHS[kind] // 8
    while True:
        name, at = c.word("a variable's name"), c.at - 1
        sizes = _sizes(c)
        count = prod(s for s in sizes if s is not None) * vector
        data = b""
        if c.accept("="):
            if space not in ("global", "const"):
                raise c.error("only .global and .const variables have initial values", given=f"{name} in .{space}")
            values = _values(c, kind)
            if None in sizes:
                count = len(values) // size
            if len(values) > count * size:
                raise c.error(f"more initial values than {name} has elements", at, given=len(values) // size, expected=count)
            if count * size > _MOST_INITIALISED:
                raise c.error(f"{name} is too large for initial values", at, given=f"{count * size} bytes")
            data = values.ljust(count * size, b"\0")
        elif None in sizes:
            if not extern and space != "param":
                raise c.error(f"{name} has no size", at)
            count = 0
        if count * size > _MOST_BYTES:
            raise c.error(f"{name} is larger than any memory", at, given=f"{count * size} bytes")
        yield Variable(space, name, kind, count, align or size * vector, data, extern)
        if space == "param" or not c.accept(","):
            return


def _alignment(c: Cursor) -> int:
    c.expect(".align")
    given = c.integer()
    if given < 1 or given & (given - 1) or given > 1 << 16:
        raise c.error("an alignment is a power of two", c.at - 1, given=given)
    return given


def _sizes(c: Cursor) -> list[int | None]:
    found: list[int | None] = []
    while c.accept("["):
        if c.accept("]"):
            if found:
                raise c.error("only the first dimension can be open", c.at - 1)
            found.append(None)
            continue
        size = constant(c)
        if not isinstance(size, int) or size < 1:
            raise c.error("a dimension is a positive integer", c.at - 1, given=size)
        found.append(size)
        c.expect("]")
    return found


def _values(c: Cursor, kind: str) -> bytes:
    """Initial values: one, or a list in braces, nested as the dimensions are."""
    if not c.accept("{"):
        return _value(c, kind)
    parts = []
    while not c.accept("}"):
        parts.append(_values(c, kind))
        if not c.accept(","):
            c.expect("}")
            break
    return b"".join(parts)


def _value(c: Cursor, kind: str) -> bytes:
    at, width = c.at, WIDTHS[kind]
    if c.text[:1].isalpha() or c.text[:1] in ("_", "$"):
        raise c.error("an initial value that is an address, which the machine does not place", given=f"'{c.text}'")
    value = constant(c)
    if isinstance(value, Imm):
        if kind[0] != "f" or width == 16:
            raise c.error(f"a float cannot be the initial value of a .{kind}", at)
        if value.float_width == width:
            return value.value.to_bytes(width // 8, "little")
        number = _as_float(value)
        try:
            return struct.pack("<f" if width == 32 else "<d", number)
        except OverflowError:
            raise c.error(f"{number} does not fit a .{kind}", at) from None
    if kind[0] == "f":
        if width == 16:
            raise c.error("initial values of .f16 are not taken", at, hint="Declare the bits, as .b16.")
        return struct.pack("<f" if width == 32 else "<d", float(value))
    if not -(1 << width - 1) <= value < 1 << width:
        raise c.error(f"{value} does not fit a .{kind}", at)
    return (value & (1 << width) - 1).to_bytes(width // 8, "little")


def _as_float(value: Imm) -> float:
    number: float
    (number,) = struct.unpack("<f" if value.float_width == 32 else "<d", value.value.to_bytes(value.float_width // 8, "little"))
    return number
