"""atom and red. Threads that meet at one address are served one after another, in an order that the seed chooses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from treadle.codegen.ptxsim import types
from treadle.codegen.ptxsim.effects import Step, effect
from treadle.codegen.ptxsim.effects.memory import STRONG, Array, by_window, parse
from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import refuse
from treadle.codegen.ptxsim.machine import Machine
from treadle.codegen.ptxsim.memory import Space
from treadle.codegen.ptxsim.pure.table import find as find_pure
from treadle.codegen.ptxsim.strong import learn, publish
from treadle.codegen.ptxsim.syntax import Instr, Reg


@effect("atom", "red")
def atomic(instr: Instr, m: Machine) -> Step:
    space, cluster, count, type_, rest = parse(instr)
    operation = next((r for r in rest if r not in STRONG), "")
    wanted = types.dtype(type_)
    combine = _operation(operation, type_)
    if combine is None or wanted is None or count > 1:
        raise refuse(instr)
    result = instr.opcode == "atom"
    target, where_, *operands = instr.operands if result else (Reg("_"), *instr.operands)
    address = m.address(where_, instr)
    gets = [m.reader(o, type_, instr) for o in operands[: 2 if operation == "cas" else 1]]
    put = m.writer(target, type_, instr)
    releases = "release" in rest or "acq_rel" in rest

    def one(gang: Gang, where: Space, at: Array) -> Array:
        offset = where.atomic(gang, at, wanted.itemsize, reads=operation != "exch")
        learn(m, where, gang, at)
        publish(m, where, gang, at, releases, update=True)
        given = [np.broadcast_to(get(gang), (gang.n,)) for get in gets]
        old = np.empty((gang.n, 1), types.raw(type_))
        for turn in _turns(offset, m.scheduler.permutation(gang.n)):
            before = where.fetch(offset[turn], wanted.itemsize, 1)
            old[turn] = before
            after = combine(before[:, 0].view(wanted), *(g[turn] for g in given))
            where.put(offset[turn], np.asarray(after, wanted).view(old.dtype)[:, None])
        return old

    def step(gang: Gang) -> None:
        old = by_window(m, gang, space, cluster, address(gang), one)
        put(gang, old[:, 0].view(wanted))
        m.changed()

    return step


def _turns(offset: Array, order: Array) -> list[Array]:
    """Threads in groups that meet no address twice, each address's threads in the given order."""
    sorted_ = order[np.argsort(offset[order], kind="stable")]
    same = offset[sorted_]
    first = np.flatnonzero(np.r_[True, same[1:] != same[:-1]])
    rank = np.arange(len(same)) - np.repeat(first, np.diff(np.r_[first, len(same)]))
    return [sorted_[rank == r] for r in range(int(rank.max()) + 1)]


def _operation(name: str, type_: str) -> Callable[..., Array] | None:
    """What an atomic does with the value found and its operands."""
    match name:
        case "exch":
            return lambda old, new: new
        case "cas":
            return _exchanged
        case "inc":
            return lambda old, top: np.where(old >= top, 0, old + np.uint32(1)).astype(np.uint32)
        case "dec":
            return lambda old, top: np.where((old == 0) | (old > top), top, old - np.uint32(1)).astype(np.uint32)
        case "and" | "or" | "xor":
            pure = find_pure(name, (type_,))
        case "add" if type_ in ("f32", "f64", "f16", "bf16", "f16x2", "bf16x2"):
            pure = find_pure("add", ("rn", type_))
        case "add" | "min" | "max":
            pure = find_pure(name, (type_,))
        case _:
            return None
    return pure.fn if pure else None


def _exchanged(old: Array, expected: Array, new: Array) -> Array:
    return np.where(old == expected, new, old)
