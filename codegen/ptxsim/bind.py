"""From instructions to steps: closures over the register file that run for a gang."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim import effects, types
from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import UnknownOpcode
from treadle.codegen.ptxsim.pure.table import find as find_pure
from treadle.codegen.ptxsim.syntax import Addr, Imm, Instr, Not, Operand, Pair, Reg, Sym, Vec

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.machine import Machine

Get: TypeAlias = Callable[[Gang], NDArray[Any]]
Put: TypeAlias = Callable[[Gang, Any], None]
CONTROL = ("bra", "brx", "ret", "exit", "trap", "brkpt")
CARRY = Reg("%carry")  # what add.cc leaves and addc takes


def known(instr: Instr) -> bool:
    """Whether the machine has semantics for an instruction."""
    if instr.opcode in CONTROL or instr.opcode in _BINDER or effects.find(instr) is not None:
        return True
    return find_pure(instr.opcode, instr.mods, _gives_pair(instr)) is not None


def refuse(instr: Instr, what: str = "no such instruction in the machine's table") -> UnknownOpcode:
    """The error for PTX that is not understood."""
    return UnknownOpcode(
        f"{instr.where}: {what}", given=instr.name, expected="an opcode of docs/ptx.md's table",
        hint="The machine never guesses; the table grows with need.",
    )  # fmt: skip


def bind(instr: Instr, machine: Machine) -> Callable[[Gang], NDArray[np.bool_] | None]:
    """The step of one instruction that is no branch."""
    if binder := _BINDER.get(instr.opcode):
        return binder(instr, machine)
    if effect := effects.find(instr):
        return effect(instr, machine)
    pure = find_pure(instr.opcode, instr.mods, _gives_pair(instr))
    if pure is None:
        raise refuse(instr)
    target, *sources = instr.operands
    results: list[Operand] = [target.first, target.second] if isinstance(target, Pair) else [target]
    if len(pure.out) > len(results) and "cc" in instr.mods:
        results.append(CARRY)
    if len(pure.args) == len(sources) + 1:
        sources.append(CARRY)
    if len(pure.args) != len(sources):
        raise refuse(instr, f"{len(sources)} operands for {len(pure.args)}")
    arguments = [machine.operand(s, t, instr) for s, t in zip(sources, pure.args, strict=True)]
    if len(pure.out) == 1:
        slot = machine.slot(results[0], pure.out[0])
        if slot is not None:
            pattern = "".join("r" if whole else "k" for whole, _ in arguments)
            return _direct(pattern)(slot, pure.fn, *(value for _, value in arguments))
    gets = [machine.reader(s, t, instr) for s, t in zip(sources, pure.args, strict=True)]
    puts = [machine.writer(r, t, instr) for r, t in zip(results, pure.out, strict=False)]
    fn = pure.fn

    def step(gang: Gang) -> None:
        made = fn(*[get(gang) for get in gets])
        for put, value in zip(puts, made if len(pure.out) > 1 else (made,), strict=False):
            put(gang, value)

    return step


def _gives_pair(instr: Instr) -> bool:
    return bool(instr.operands) and isinstance(instr.operands[0], Pair)


@cache
def _direct(pattern: str) -> Callable[..., Callable[[Gang], None]]:
    """A factory of steps whose operands are whole registers (r) and constants (k): the common case, without any detour."""
    names = [f"a{i}" for i in range(len(pattern))]
    used = ", ".join(f"{n}[s]" if kind == "r" else n for n, kind in zip(names, pattern, strict=True))
    scope: dict[str, Any] = {}
    exec(f"def factory(d, fn, {', '.join(names)}):\n def step(g):\n  s = g.sel\n  d[s] = fn({used})\n return step\n", scope)
    return scope["factory"]


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
            return _direct("r" if whole else "k")(slot, _same, value)
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


_BINDER: dict[str, Callable[[Instr, Any], Callable[[Gang], Any]]] = {
    "mov": _mov, "cvta": _cvta,
    "pragma": _nothing, "prefetch": _nothing, "prefetchu": _nothing, "nanosleep": _nothing, "applypriority": _nothing,
    "discard": _nothing, "pmevent": _nothing,
}  # fmt: skip


def guard(instr: Instr, operands: Operands) -> Get | None:
    """The predicate that decides for which threads the instruction happens."""
    return None if instr.guard is None else operands.reader(instr.guard, "pred", instr)


def vector(operand: Operand) -> Sequence[Operand]:
    """The elements of `{...}`, or the operand alone."""
    return operand.items if isinstance(operand, Vec) else (operand,)
