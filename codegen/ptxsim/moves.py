"""mov in all its forms, cvta, and the hints that move nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim import types
from treadle.codegen.ptxsim.direct import direct
from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import refuse
from treadle.codegen.ptxsim.syntax import Instr, Operand, Reg, Vec

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.machine import Machine


def _mov(instr: Instr, m: Machine) -> Callable[[Gang], None]:
    """mov, and its forms that pack registers into a wider one or take one apart."""
    type_ = instr.mods[-1]
    target, source = instr.operands
    if not isinstance(target, Vec) and not isinstance(source, Vec):
        if isinstance(source, Reg) and source.name in m.clocks:
            tick, put = m.clocks[source.name], m.writer(target, type_, instr)
            return lambda g: put(g, tick())
        get, put = m.reader(source, type_, instr), m.writer(target, type_, instr)
        slot = m.slot(target, type_)
        whole, value = m.operand(source, type_, instr)
        if slot is not None:
            return direct("r" if whole else "k")(slot, _same, value)
        return lambda g: put(g, get(g))
    if type_ == "b128":
        return _pairs(target, source, instr, m)
    total = int(type_.lstrip("busf"))
    if isinstance(source, Vec):
        if isinstance(target, Vec):
            raise refuse(instr, "a vector moved to a vector")
        part = f"b{total // len(source.items)}"
        gets = [m.reader(s, part, instr) for s in source.items]
        put = m.writer(target, f"b{total}", instr)
        wide = types.raw(f"b{total}")
        shifts = [wide.type(i * total // len(gets)) for i in range(len(gets))]

        def pack(gang: Gang) -> None:
            value = gets[0](gang).astype(wide)
            for get, shift in zip(gets[1:], shifts[1:], strict=True):
                value = value | (get(gang).astype(wide) << shift)
            put(gang, value)

        return pack
    assert isinstance(target, Vec)
    part = f"b{total // len(target.items)}"
    get = m.reader(source, f"b{total}", instr)
    puts = [m.writer(t, part, instr) for t in target.items]
    narrow, wide = types.raw(part), types.raw(f"b{total}")

    def unpack(gang: Gang) -> None:
        value = get(gang)
        for i, put in enumerate(puts):
            put(gang, (value >> wide.type(i * total // len(puts))).astype(narrow))

    return unpack


def _pairs(target: Operand, source: Operand, instr: Instr, m: Machine) -> Callable[[Gang], None]:
    """128 bits are two registers of 64: only {a, b} to {c, d} is understood."""
    if not (isinstance(target, Vec) and isinstance(source, Vec) and len(target.items) == len(source.items) == 2):
        raise refuse(instr, "128-bit registers")
    moves = [(m.reader(s, "b64", instr), m.writer(t, "b64", instr)) for s, t in zip(source.items, target.items, strict=True)]

    def step(gang: Gang) -> None:
        for put, value in [(put, get(gang).copy()) for get, put in moves]:
            put(gang, value)

    return step


def _same(value: NDArray[Any]) -> NDArray[Any]:
    return value


def _cvta(instr: Instr, m: Machine) -> Callable[[Gang], None]:
    """Between the generic window and a state space's own addresses."""
    to = instr.mods[0] == "to"
    space = instr.mods[1 if to else 0].split("::")[0]
    base = m.window(space)
    if base is None:
        raise refuse(instr, f"no such state space as {space}")
    type_ = instr.mods[-1]
    target, source = instr.operands
    get, put = m.reader(source, type_, instr), m.writer(target, type_, instr)
    shift = np.array(-base if to else base, np.int64).astype(types.raw(type_))
    return lambda g: put(g, get(g) + shift)


def _nothing(instr: Instr, m: Machine) -> Callable[[Gang], None]:
    """Hints, which change no value."""
    return lambda g: None


#: By opcode.
BINDERS: dict[str, Callable[[Instr, Any], Callable[[Gang], Any]]] = {
    "mov": _mov, "cvta": _cvta,
    "pragma": _nothing, "prefetch": _nothing, "prefetchu": _nothing, "nanosleep": _nothing, "applypriority": _nothing,
    "discard": _nothing, "pmevent": _nothing,
}  # fmt: skip
