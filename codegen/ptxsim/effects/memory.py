"""ld, st, and the fences that order them.

An access without a state space is generic: its address says which window it lies in. Strong accesses (volatile, relaxed,
acquire, release, atomics) race with none of their kind. One that follows a fence publishes what its warp knew there, and
who reads it strongly learns that at once: a missing fence on the writer's side is found, on the reader's it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim import types
from treadle.codegen.ptxsim.effects import Step, effect
from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import BoundsHazard, refuse
from treadle.codegen.ptxsim.machine import WINDOWS, Machine
from treadle.codegen.ptxsim.memory import Space
from treadle.codegen.ptxsim.strong import learn, publish
from treadle.codegen.ptxsim.syntax import Addr, Instr, Reg, elements

Array = NDArray[Any]
_SPACES = ("global", "shared", "local", "param", "const")
STRONG = ("volatile", "relaxed", "acquire", "release", "acq_rel", "mmio")
#: Hints and scopes: what they allow, the machine does not use.
_IGNORED = {
    "weak", "nc", "cta", "cluster", "gpu", "sys", "gl", "entry", "func", "ca", "cg", "cs", "cv", "lu", "wb", "wt", "L1", "L2", "noftz",
}  # fmt: skip


def parse(instr: Instr) -> tuple[str | None, bool, int, str, tuple[str, ...]]:
    """State space (None: generic), whether shared::cluster, vector length, type, and the remaining modifiers."""
    space, cluster, count, rest = None, False, 1, []
    *mods, type_ = instr.mods
    for mod in mods:
        head, _, sub = mod.partition("::")
        if head in _SPACES:
            space, cluster = head, sub == "cluster"
        elif mod in ("v2", "v4", "v8"):
            count = int(mod[1:])
        elif head not in _IGNORED:
            rest.append(mod)
    return space, cluster, count, type_, tuple(rest)


@effect("ld", "ldu")
def load(instr: Instr, m: Machine) -> Step:
    space, cluster, count, type_, rest = parse(instr)
    strong = _strong(instr, rest)
    target, source = instr.operands[:2]
    address = m.address(source, instr)
    if isinstance(source, Addr) and space is None and not isinstance(source.base, Reg):
        raise refuse(instr, "a variable's name as a generic address")
    puts = [m.writer(t, type_, instr) for t in elements(target)]
    if len(puts) != count:
        raise refuse(instr, f"{len(puts)} registers for {count} elements")
    wanted = types.dtype(type_)
    assert wanted is not None

    def one(gang: Gang, where: Space, at: Array) -> Array:
        got = where.load(gang, at, wanted.itemsize, count, strong)
        if strong:
            learn(m, where, gang, at)
        return got

    def step(gang: Gang) -> None:
        got = by_window(m, gang, space, cluster, address(gang), one)
        for i, put in enumerate(puts):
            put(gang, got[:, i].view(wanted))

    return step


@effect("st")
def store(instr: Instr, m: Machine) -> Step:
    space, cluster, count, type_, rest = parse(instr)
    strong = _strong(instr, rest)
    target, source = instr.operands[:2]
    address = m.address(target, instr)
    gets = [m.reader(s, type_, instr) for s in elements(source)]
    if len(gets) != count:
        raise refuse(instr, f"{len(gets)} registers for {count} elements")
    raw = types.raw(type_)

    def one(gang: Gang, where: Space, at: Array) -> None:
        values = np.empty((gang.n, count), raw)
        for i, get in enumerate(gets):
            values[:, i] = get(gang).view(raw)
        if strong:
            publish(m, where, gang, at, "release" in rest, update=False)
        where.store(gang, at, values, strong)

    def step(gang: Gang) -> None:
        by_window(m, gang, space, cluster, address(gang), one)
        if strong:
            m.changed()

    return step


def _strong(instr: Instr, rest: tuple[str, ...]) -> bool:
    for mod in rest:
        if mod not in STRONG:
            raise refuse(instr, f"modifier .{mod}")
    return bool(rest)


def by_window(
    m: Machine, gang: Gang, space: str | None, cluster: bool, address: Array, do: Callable[[Gang, Space, Array], Any]
) -> Any:
    """Do an access in the space it names; a generic one in the spaces that its addresses lie in."""
    if space is not None:
        where = m.space(space)
        if space == "shared" and m.ctas > 1 and not cluster:
            m.shared.require_own(gang, address)
        return do(gang, where, address)
    window = address >> np.uint64(48)
    name = {base >> 48: space for space, base in WINDOWS.items() if space != "const"}
    first = int(window[0])
    low = np.uint64((1 << 48) - 1)
    if (window == first).all() and first in name:
        return do(gang, m.space(name[first]), address & low)
    out = None
    for base in np.unique(window).tolist():
        mask = window == base
        if base not in name:
            i = int(mask.argmax())
            raise m.hazard(BoundsHazard, f"address {int(address[i]):#x} lies in no state space", gang, i, int(address[i]))
        part = do(gang.narrow(mask), m.space(name[base]), address[mask] & low)
        if part is not None:
            out = np.empty((gang.n, *part.shape[1:]), part.dtype) if out is None else out
            out[mask] = part
    return out


@effect("membar", "fence.sc", "fence.acq_rel", "fence.acquire", "fence.release", "fence.gpu", "fence.cta", "fence.sys")
def fence(instr: Instr, m: Machine) -> Step:
    return lambda gang: m.order.fence(gang.warps)


@effect("isspacep")
def is_space(instr: Instr, m: Machine) -> Step:
    base = m.window(instr.mods[0].split("::")[0])
    if base is None:
        raise refuse(instr)
    put, get = m.writer(instr.operands[0], "pred", instr), m.reader(instr.operands[1], "u64", instr)
    return lambda gang: put(gang, np.broadcast_to(get(gang) >> np.uint64(48) == base >> 48, (gang.n,)))
