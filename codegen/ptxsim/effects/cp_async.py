"""cp.async: copies of 4, 8 or 16 bytes per thread, in groups that their thread waits for.

The bytes are read where the copy is issued and land where their thread waits. In between they belong to an agent of the warp's
group, so that whoever touches either end of the copy meets it. These copies are made by the generic proxy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.effects import Step, effect
from treadle.codegen.ptxsim.engines import Delegate, Engines, every, refuse_unless, shared_address, without_policy
from treadle.codegen.ptxsim.gang import WARP, Gang
from treadle.codegen.ptxsim.hazards import BoundsHazard, refuse
from treadle.codegen.ptxsim.machine import Machine
from treadle.codegen.ptxsim.mbarriers import Mbarriers
from treadle.codegen.ptxsim.memory import Engine
from treadle.codegen.ptxsim.order import Ints
from treadle.codegen.ptxsim.syntax import Imm, Instr, Reg


@dataclass
class _Copy:
    """One instruction's bytes, [threads, bytes], of threads that have not waited yet."""

    threads: NDArray[np.intp]
    groups: NDArray[np.int64]
    agents: NDArray[np.intp]
    offsets: NDArray[np.int64]
    bytes: NDArray[Any]


class Copies:
    """Copies under way. `group[t]` is the group that thread t is filling."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        m.resets.append(self.reset)
        self.reset()

    def reset(self) -> None:
        """A new cohort."""
        self.group = np.zeros(self.m.threads, np.int64)
        self.pending: list[_Copy] = []
        self._agents: dict[tuple[int, int], int] = {}
        self._landed: dict[tuple[int, int], Ints] = {}  # by warp and group, until its lanes have waited

    def delegate(self, gang: Gang) -> Delegate:
        """The agents of the gang's warps and groups, which know what their warps know now."""
        engines, order = self.m.part(Engines), self.m.order
        agents = np.empty(gang.n, np.intp)
        groups = self.group[gang.threads]
        for warp, group in sorted(set(zip(gang.warp_of.tolist(), groups.tolist(), strict=True))):
            agent = self._agents.get((warp, group))
            if agent is None:
                agent = self._agents[warp, group] = engines.agent(warp, fencer=warp)
            else:
                order.acquire(agent, order.seen[warp])
            agents[(gang.warp_of == warp) & (groups == group)] = agent
        return Delegate(gang, agents)

    def land(self, gang: Gang, newest: NDArray[np.int64]) -> list[tuple[int, Ints]]:
        """The bytes of the threads' copies up to these groups are there. Returns what each warp may learn."""
        limit = np.full(self.m.threads, -1)
        limit[gang.threads] = newest
        kept = []
        over: set[tuple[int, int]] = set()
        for copy in self.pending:
            mine = copy.groups <= limit[copy.threads]
            if mine.any():
                self.m.shared.put(copy.offsets[mine], copy.bytes[mine])
                over |= set(zip((copy.threads[mine] // WARP).tolist(), copy.groups[mine].tolist(), strict=True))
                left = ~mine
                copy = _Copy(copy.threads[left], copy.groups[left], copy.agents[left], copy.offsets[left], copy.bytes[left])
            if len(copy.threads):
                kept.append(copy)
        self.pending = kept
        still = {int(a) for copy in kept for a in np.unique(copy.agents)}
        for warp, group in sorted(over):
            agent = self._agents[warp, group]
            if agent in still:  # other lanes of the warp have not waited
                self._landed[warp, group] = self.m.order.release(agent)
            else:
                self._landed[warp, group] = self.m.part(Engines).finished(agent)
                del self._agents[warp, group]
        newest_of = {w: int(newest[gang.warp_of == w].max()) for w in gang.warps.tolist()}
        return [(w, known) for (w, group), known in self._landed.items() if group <= newest_of.get(w, -1)]

    def learn(self, gang: Gang, newest: NDArray[np.int64]) -> None:
        """The threads wait for their copies up to these groups."""
        for warp, known in self.land(gang, newest):
            self.m.order.acquire(warp, known)
        oldest = {w: int(newest[gang.warp_of == w].min()) for w in gang.warps.tolist()}
        for warp, group in list(self._landed):
            if group <= oldest.get(warp, -1):
                del self._landed[warp, group]


@effect("cp.async.ca", "cp.async.cg")
def copy(instr: Instr, m: Machine) -> Step:
    """`[to], [from], size{, bytes that are read | predicate to read none}`."""
    refuse_unless(any(x in instr.mods for x in ("shared", "shared::cta")) and "global" in instr.mods, instr)
    copies = m.part(Copies)
    to, source, size, *more = without_policy(instr)
    if not isinstance(size, Imm) or size.value not in ((16,) if "cg" in instr.mods else (4, 8, 16)) or len(more) > 1:
        raise refuse(instr, "a copy of 4, 8 or 16 bytes")
    width = min(size.value, 8)
    count = size.value // width
    target, origin = shared_address(to, instr, m), m.address(source, instr)
    ignored = bool(more) and isinstance(more[0], Reg) and m.registers.get(more[0].name, np.zeros(1)).dtype == np.bool_
    ignore = m.reader(more[0], "pred", instr) if ignored else None
    given = m.reader(more[0], "u32", instr) if more and not ignored else None

    def step(gang: Gang) -> None:
        there, here = origin(gang), target(gang)
        length = np.full(gang.n, size.value)
        if ignore is not None:
            length[np.broadcast_to(ignore(gang), (gang.n,))] = 0
        elif given is not None:
            length = np.array(every(given, gang))
            if (length > size.value).any():
                i = int((length > size.value).argmax())
                raise m.hazard(BoundsHazard, f"{length[i]} bytes are read for a copy of {size.value}", gang, i)
        actor = copies.delegate(gang)
        offsets = m.shared.claim(actor, here, size.value)
        if (length == size.value).all():
            values = m.global_.load(actor, there, width, count)
        else:
            values = _ragged(m, actor, there, length, width, count)
        copies.pending.append(_Copy(gang.threads, copies.group[gang.threads], actor.warp_of, offsets, values))

    return step


def _ragged(
    m: Machine, actor: Delegate, address: NDArray[np.uint64], length: NDArray[np.int64], width: int, count: int
) -> NDArray[Any]:
    """So many bytes of every thread's source as its length says, and zeros behind them."""
    out = np.zeros((actor.n, width * count), np.uint8)
    for size in np.unique(length[length > 0]).tolist():
        mine = length == size
        gang = Delegate(actor.narrow(mine), actor.warp_of[mine])
        if (address[mine] % np.uint64(width * count)).any():
            m.global_.locate(gang, address[mine], width * count)  # aligned to the whole copy, however little is read
        step = size & -size
        for first in range(0, size, step):
            part = m.global_.load(gang, address[mine] + np.uint64(first), min(step, 8), max(1, step // 8))
            out[mine, first : first + step] = part.view(np.uint8).reshape(gang.n, -1)
    return out.view(f"u{width}")


@effect("cp.async.commit_group")
def commit(instr: Instr, m: Machine) -> Step:
    copies = m.part(Copies)

    def step(gang: Gang) -> None:
        copies.group[gang.threads] += 1

    return step


@effect("cp.async.wait_group", "cp.async.wait_all")
def wait(instr: Instr, m: Machine) -> Step:
    copies = m.part(Copies)
    every_one = instr.mods[1] == "wait_all"
    left = instr.operands[0].value if not every_one and isinstance(instr.operands[0], Imm) else 0

    def step(gang: Gang) -> None:
        filling = copies.group[gang.threads]
        copies.learn(gang, filling if every_one else filling - 1 - left)

    return step


@dataclass(eq=False)
class _Arrival:
    """Arrives at an mbarrier once a thread's copies so far are there."""

    m: Machine
    engine: Engine
    thread: int
    newest: int
    barrier_at: int

    def complete(self) -> None:
        m = self.m
        copies, barriers = m.part(Copies), m.part(Mbarriers)
        gang = Gang(np.array([self.thread]))
        barrier = barriers.find(self.engine, np.zeros(1, np.intp), self.barrier_at)
        for _, known in copies.land(gang, np.array([self.newest])):
            barrier.add(known)
        barriers.arrive(barrier, self.engine, 0, 1)


@effect("cp.async.mbarrier.arrive")
def arrive(instr: Instr, m: Machine) -> Step:
    """The thread's copies so far report to an mbarrier; with .noinc as one of the arrivals that it waits for."""
    copies, barriers = m.part(Copies), m.part(Mbarriers)
    address, counted = shared_address(instr.operands[0], instr, m), "noinc" in instr.mods

    def step(gang: Gang) -> None:
        at = address(gang)
        m.shared.atomic(gang, at, 8)
        for i, a in enumerate(at.tolist()):
            barrier = barriers.find(gang, np.array([i]), a)
            if not counted:  # one more is waited for, from now on
                barrier.pending += 1
            thread = int(gang.threads[i])
            engine = Engine(int(gang.warp_of[i]), m.place(thread))
            m.defer(_Arrival(m, engine, thread, int(copies.group[thread]), a))

    return step
