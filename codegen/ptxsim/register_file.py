"""Operands bound to the register file: how steps read and write registers, immediates and the addresses of variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim import types
from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import refuse
from treadle.codegen.ptxsim.syntax import Addr, Imm, Instr, Not, Operand, Reg, Sym

Get: TypeAlias = Callable[[Gang], NDArray[Any]]
Put: TypeAlias = Callable[[Gang, Any], None]


class Operands:
    """What steps read and write: registers, immediates, special registers, the addresses of variables."""

    registers: dict[str, NDArray[Any]]

    def special(self, name: str) -> NDArray[Any] | None:
        """A special register, one value per thread, kept up to date in place."""
        raise NotImplementedError

    def symbol(self, name: str) -> NDArray[np.uint64] | None:
        """The address of a variable, per thread or one for all."""
        raise NotImplementedError

    def operand(self, operand: Operand, type_: str, instr: Instr) -> tuple[bool, Any]:
        """(True, array over all threads) or (False, constant), where the operand is one of them as it stands."""
        if isinstance(operand, Imm):
            return False, _constant(operand, type_, instr)
        get = self.reader(operand, type_, instr)
        whole = getattr(get, "whole", None)
        return (True, whole) if whole is not None else (True, _Indexed(get))

    def slot(self, operand: Operand, type_: str) -> NDArray[Any] | None:
        """The array over all threads that a result can be assigned into as it stands."""
        if not isinstance(operand, Reg) or operand.name == "_":
            return None
        array, wanted = self.registers[operand.name], types.dtype(type_)
        return array.view(wanted) if wanted is not None and array.itemsize == wanted.itemsize else None

    def reader(self, operand: Operand, type_: str, instr: Instr) -> Get:
        """What reads an operand as a type, for the threads of a gang."""
        wanted = types.dtype(type_)
        if wanted is None:
            raise refuse(instr, f"no register holds a value of type {type_}")
        if isinstance(operand, Imm):
            constant = _constant(operand, type_, instr)
            return lambda g: constant
        if isinstance(operand, Not):
            of = self.reader(operand.of, "pred", instr)
            return lambda g: ~of(g)
        if isinstance(operand, Reg):
            array = self.registers.get(operand.name)
            if array is None:
                array = self.special(operand.name)
        elif isinstance(operand, Sym):
            array = self.symbol(operand.name)
        else:
            raise refuse(instr, f"operand {operand}")
        if array is None:
            raise refuse(instr, f"unknown name {operand.name}")
        if (array.dtype == np.bool_) != (wanted == np.bool_):
            raise refuse(instr, f"{operand.name} read as {type_}")
        if array.ndim == 0:
            value = array.astype(f"u{wanted.itemsize}").view(wanted)
            return lambda g: value
        if array.itemsize == wanted.itemsize:
            return _Whole(array.view(wanted))
        if array.itemsize > wanted.itemsize:
            narrow = np.dtype(f"u{wanted.itemsize}")
            return lambda g: array[g.sel].astype(narrow).view(wanted)
        if isinstance(operand, Reg) and operand.name in self.registers:
            raise refuse(instr, f"{operand.name} is too narrow for {type_}")
        wide = np.dtype(f"u{wanted.itemsize}")
        return lambda g: array[g.sel].astype(wide).view(wanted)

    def writer(self, operand: Operand, type_: str, instr: Instr) -> Put:
        """What assigns values of a type to an operand."""
        wanted = types.dtype(type_)
        if wanted is None:
            raise refuse(instr, f"no register holds a value of type {type_}")
        if not isinstance(operand, Reg):
            raise refuse(instr, f"a result to {operand}")
        if operand.name == "_":
            return lambda g, v: None
        array = self.registers.get(operand.name)
        if array is None:
            raise refuse(instr, f"unknown register {operand.name}")
        if array.itemsize < wanted.itemsize or (array.dtype == np.bool_) != (wanted == np.bool_):
            raise refuse(instr, f"{operand.name} cannot hold {type_}")
        signed = type_[0] == "s" and array.itemsize > wanted.itemsize
        view = array.view(f"i{array.itemsize}") if signed else array
        bits = view.dtype if signed or wanted == np.bool_ else np.dtype(f"u{wanted.itemsize}")

        def put(gang: Gang, values: Any) -> None:
            given = np.asarray(values, wanted)
            view[gang.sel] = given if signed else given.view(bits)

        return put

    def address(self, operand: Operand, instr: Instr) -> Callable[[Gang], NDArray[np.uint64]]:
        """What computes the address of `[base + offset]`."""
        if not isinstance(operand, Addr):
            raise refuse(instr, f"no address: {operand}")
        if isinstance(operand.base, Imm):
            fixed = np.uint64((operand.base.value + operand.offset) & (2**64 - 1))
            return lambda g: np.full(g.n, fixed)
        if not isinstance(operand.base, Reg | Sym):
            raise refuse(instr, f"the address {operand.base}")
        wide = isinstance(operand.base, Sym) or self.registers[operand.base.name].itemsize == 8
        base = self.reader(operand.base, "u64" if wide else "u32", instr)
        offset = np.uint64(operand.offset & (2**64 - 1))
        if wide:
            return lambda g: np.broadcast_to(base(g) + offset, (g.n,))
        low = np.uint32(operand.offset & (2**32 - 1))
        return lambda g: (base(g) + low).astype(np.uint64)


class _Whole:
    """A reader of a register as it stands."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.whole = array

    def __call__(self, gang: Gang) -> NDArray[Any]:
        return self.whole[gang.sel]


class _Indexed:
    """A reader that looks like an array to the direct steps."""

    def __init__(self, get: Get) -> None:
        self._get = get

    def __getitem__(self, sel: Any) -> NDArray[Any]:
        return self._get(_Selection(sel))  # type: ignore[arg-type]


class _Selection:
    """As much of a gang as a reader needs."""

    def __init__(self, sel: Any) -> None:
        self.sel = sel


def _constant(imm: Imm, type_: str, instr: Instr) -> NDArray[Any]:
    """An immediate as a value of a type, 0-d."""
    wanted = types.dtype(type_)
    if wanted is None:
        raise refuse(instr, f"an immediate of type {type_}")
    if wanted == np.bool_:
        return np.array(imm.value != 0)
    if imm.float_width and type_ in ("f32", "f64"):
        value = np.array(imm.value, f"u{imm.float_width // 8}").view(f"f{imm.float_width // 8}")
        with np.errstate(over="ignore"):  # a decimal literal is a double, whatever it is used for
            return value.astype(wanted)
    bits = 8 * wanted.itemsize
    return np.array(imm.value & ((1 << bits) - 1), f"u{wanted.itemsize}").view(wanted)
