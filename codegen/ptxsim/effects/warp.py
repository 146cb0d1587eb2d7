"""Lanes of a warp together: shfl, vote, match, redux, bar.warp.sync, activemask.

Each names the lanes that take part; a lane waits until all of them that have not left stand at the same instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.effects import Step, effect
from treadle.codegen.ptxsim.gang import WARP, Gang
from treadle.codegen.ptxsim.hazards import DivergenceHazard, refuse
from treadle.codegen.ptxsim.machine import Machine
from treadle.codegen.ptxsim.syntax import Instr, Operand, Pair, Reg

Masks = NDArray[np.uint32]


def together(instr: Instr, m: Machine, members: Operand, act: Callable[[Gang, Masks], None]) -> Step:
    """The step of an instruction that acts for the lanes whose whole membership has arrived."""
    mask_of = m.reader(members, "u32", instr)
    parked = np.zeros(m.threads, bool)
    m.resets.append(lambda: parked.fill(False))

    def step(gang: Gang) -> NDArray[np.bool_] | None:
        members = np.broadcast_to(mask_of(gang), (gang.n,))
        present = lane_bits(m, gang.threads)[gang.warp_of]
        alive = lane_bits(m, np.flatnonzero(m.alive()))[gang.warp_of]
        own = (members >> gang.lane_of.astype(np.uint32)) & np.uint32(1)
        if not own.all():
            raise m.hazard(
                DivergenceHazard, f"its lane is not among the members {int(members[own.argmin()]):#x}", gang, int(own.argmin())
            )
        waits = (members & alive & ~present) != 0
        if not waits.any():
            parked[gang.sel] = False
            act(gang, members)
            return None
        fresh = gang.threads[waits]
        if not parked[fresh].all():  # those who wait already must be asked again
            parked[fresh] = True
            m.changed()
        if not waits.all():
            ready = gang.narrow(~waits)
            parked[ready.threads] = False
            act(ready, members[~waits])
        return waits

    def explain(threads: NDArray[np.intp]) -> str:
        gang = Gang(threads)
        members = np.broadcast_to(mask_of(gang), (gang.n,))
        return f"members {int(members[0]):#x}, arrived {int(lane_bits(m, threads)[gang.warp_of[0]]):#x}"

    step.explain = explain  # type: ignore[attr-defined]
    return step


def lane_bits(m: Machine, threads: NDArray[np.intp]) -> Masks:
    """Per warp of the cohort, a bit for each lane among the threads."""
    bits = np.bincount(threads // WARP, weights=(1 << (threads % WARP)).astype(np.float64), minlength=m.warps)
    return bits.astype(np.uint64).astype(np.uint32)


@effect("shfl.sync")
def shuffle(instr: Instr, m: Machine) -> Step:
    mode = instr.mods[1]
    target, source, by, clamp, members = instr.operands
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, Reg("_"))
    put, put_valid = m.writer(first, "b32", instr), m.writer(second, "pred", instr)
    get, get_by, get_clamp = (m.reader(o, "b32", instr) for o in (source, by, clamp))
    if mode not in ("up", "down", "bfly", "idx"):
        raise refuse(instr)

    def act(gang: Gang, masks: Masks) -> None:
        lane = gang.lane_of
        b, c = (np.broadcast_to(f(gang), (gang.n,)).astype(np.int64) for f in (get_by, get_clamp))
        b &= 31
        segment, last = (c >> 8) & 31, c & 31
        most = (lane & segment) | (last & ~segment)
        match mode:
            case "up":
                to = lane - b
                valid = to >= most
            case "down":
                to = lane + b
                valid = to <= most
            case "bfly":
                to = lane ^ b
                valid = to <= most
            case _:
                to = (lane & segment) | (b & ~segment)
                valid = to <= most
        to = np.where(valid, to, lane)
        there = gang.warp_of * WARP + to
        values, here = np.zeros(m.threads, np.uint32), np.zeros(m.threads, bool)
        values[gang.sel], here[gang.sel] = get(gang), True
        absent = ~(here[there] & ((masks >> to.astype(np.uint32)) & np.uint32(1)).astype(bool))
        if absent.any():
            i = int(absent.argmax())
            raise m.hazard(DivergenceHazard, f"reads from lane {int(to[i])}, which does not take part", gang, i)
        put(gang, values[there])
        put_valid(gang, valid)

    return together(instr, m, members, act)


def _per_warp(gang: Gang, m: Machine, fill: Any, values: NDArray[Any]) -> NDArray[Any]:
    """Values by warp and lane, absent lanes filled."""
    grid = np.full(m.threads, fill, values.dtype)
    grid[gang.sel] = values
    return grid.reshape(m.warps, WARP)


@effect("vote.sync")
def vote(instr: Instr, m: Machine) -> Step:
    kind = instr.mods[1]
    target, source, members = instr.operands
    put, get = m.writer(target, instr.mods[2], instr), m.reader(source, "pred", instr)
    if kind not in ("all", "any", "uni", "ballot"):
        raise refuse(instr)

    def act(gang: Gang, masks: Masks) -> None:
        votes = np.broadcast_to(get(gang), (gang.n,))
        yes = lane_bits(m, gang.threads[votes])[gang.warp_of] & masks
        here = lane_bits(m, gang.threads)[gang.warp_of] & masks
        made = {"all": yes == here, "any": yes != 0, "uni": (yes == here) | (yes == 0), "ballot": yes}[kind]
        put(gang, made)

    return together(instr, m, members, act)


@effect("match.any.sync", "match.all.sync")
def match_(instr: Instr, m: Machine) -> Step:
    every = instr.mods[0] == "all"
    target, source, members = instr.operands
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, Reg("_"))
    put, put_all = m.writer(first, "b32", instr), m.writer(second, "pred", instr)
    get = m.reader(source, instr.mods[-1], instr)

    def act(gang: Gang, masks: Masks) -> None:
        values = np.broadcast_to(get(gang), (gang.n,))
        table, here = _per_warp(gang, m, 0, values), _per_warp(gang, m, False, np.ones(gang.n, bool))
        member = ((masks[:, None] >> np.arange(WARP, dtype=np.uint32)) & np.uint32(1)).astype(bool) & here[gang.warp_of]
        equal = (table[gang.warp_of] == values[:, None]) & member
        bits = (equal.astype(np.uint64) << np.arange(WARP, dtype=np.uint64)).sum(axis=1).astype(np.uint32)
        whole = (equal == member).all(axis=1)
        put(gang, np.where(whole, bits, 0).astype(np.uint32) if every else bits)
        put_all(gang, whole)

    return together(instr, m, members, act)


@effect("redux.sync")
def redux(instr: Instr, m: Machine) -> Step:
    operation, type_ = instr.mods[1], instr.mods[2]
    ufunc = {
        "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    }.get(operation)  # fmt: skip
    if ufunc is None or type_ not in ("u32", "s32", "b32"):
        raise refuse(instr)
    target, source, members = instr.operands
    put, get = m.writer(target, type_, instr), m.reader(source, type_, instr)

    def act(gang: Gang, masks: Masks) -> None:
        values = np.broadcast_to(get(gang), (gang.n,))
        out = np.empty_like(values)
        groups = gang.warp_of.astype(np.uint64) << np.uint64(32) | masks
        for group in np.unique(groups):
            mask = groups == group
            out[mask] = ufunc.reduce(values[mask], dtype=values.dtype)
        put(gang, out)

    return together(instr, m, members, act)


@effect("bar.warp.sync")
def warp_sync(instr: Instr, m: Machine) -> Step:
    return together(instr, m, instr.operands[0], lambda gang, masks: m.order.tick(gang.warps))


@effect("activemask")
def active(instr: Instr, m: Machine) -> Step:
    put = m.writer(instr.operands[0], "b32", instr)
    return lambda gang: put(gang, lane_bits(m, gang.threads)[gang.warp_of])
