"""From instructions to steps: closures over the register file that run for a gang."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim import effects
from treadle.codegen.ptxsim.direct import direct
from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import BoundsHazard, refuse
from treadle.codegen.ptxsim.moves import BINDERS
from treadle.codegen.ptxsim.pure.table import find as find_pure
from treadle.codegen.ptxsim.register_file import Get
from treadle.codegen.ptxsim.syntax import Instr, Operand, Pair, Reg, Sym

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.machine import Machine

#: What a step does with the program counter.
PURE, EFFECT, BRANCH, INDEXED, EXIT = range(5)
CONTROL = ("bra", "brx", "ret", "exit", "trap", "brkpt")
CARRY = Reg("%carry")  # what add.cc leaves and addc takes


def known(instr: Instr) -> bool:
    """Whether the machine has semantics for an instruction."""
    if instr.opcode in CONTROL or instr.opcode in BINDERS or effects.find(instr) is not None:
        return True
    return find_pure(instr.opcode, instr.mods, _gives_pair(instr)) is not None


def bind(instr: Instr, machine: Machine) -> Callable[[Gang], NDArray[np.bool_] | None]:
    """The step of one instruction that is no branch."""
    if binder := BINDERS.get(instr.opcode):
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
            return direct(pattern)(slot, pure.fn, *(value for _, value in arguments))
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


def guard(instr: Instr, machine: Machine) -> Get | None:
    """The predicate that decides for which threads the instruction happens."""
    return None if instr.guard is None else machine.reader(instr.guard, "pred", instr)


def step(instr: Instr, machine: Machine) -> tuple[int, Any, Get | None]:
    """An instruction as the machine executes it: its kind; its step, or where it branches to; for which threads."""
    guarded = guard(instr, machine)
    match instr.opcode:
        case "bra":
            target = instr.operands[0]
            assert isinstance(target, Sym)
            return BRANCH, machine.entry.labels[target.name], guarded
        case "brx":
            return INDEXED, _targets(instr, machine), guarded
        case "ret" | "exit":
            return EXIT, None, guarded
        case "trap" | "brkpt":
            return EXIT, instr.opcode, guarded
    pure = instr.opcode in BINDERS or effects.find(instr) is None
    return (PURE if pure else EFFECT), bind(instr, machine), guarded


def _targets(instr: Instr, m: Machine) -> Callable[[Gang], NDArray[np.int64]]:
    """Where brx.idx goes, per thread."""
    index, table = instr.operands
    assert isinstance(table, Sym)
    targets = np.array([m.entry.labels[name] for name in m.entry.branch_targets[table.name]])
    get = m.reader(index, "u32", instr)

    def of(gang: Gang) -> NDArray[np.int64]:
        chosen = get(gang).astype(np.int64)
        if (chosen >= len(targets)).any():
            raise m.hazard(BoundsHazard, "an index past the branch's targets", gang, int(chosen.argmax()))
        return targets[chosen]

    return of
