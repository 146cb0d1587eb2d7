"""Clusters, roles and launches: addresses of other CTAs, the cluster's barrier, elect, setmaxnreg, griddepcontrol."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.effects import Step, effect
from treadle.codegen.ptxsim.effects.warp import Masks, together
from treadle.codegen.ptxsim.engines import every, refuse_unless
from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import BoundsHazard, DivergenceHazard, refuse
from treadle.codegen.ptxsim.machine import Machine
from treadle.codegen.ptxsim.memory import RANK_SHIFT
from treadle.codegen.ptxsim.order import Ints
from treadle.codegen.ptxsim.syntax import Imm, Instr, Pair, Reg

_WITHIN = (1 << RANK_SHIFT) - 1


@effect("mapa")
def map_address(instr: Instr, m: Machine) -> Step:
    """The address that a variable of this CTA has in another one of the cluster."""
    type_ = instr.mods[-1]
    target, source, rank = instr.operands
    put, get, ranks = m.writer(target, type_, instr), m.reader(source, type_, instr), m.reader(rank, "u32", instr)

    def step(gang: Gang) -> None:
        address = np.broadcast_to(get(gang), (gang.n,))
        to = np.array(every(ranks, gang))
        if (to >= m.ctas).any():
            i = int((to >= m.ctas).argmax())
            raise m.hazard(BoundsHazard, f"CTA {to[i]} of a cluster of {m.ctas}", gang, i)
        kind = address.dtype.type
        put(gang, (address & ~kind(0xFF << RANK_SHIFT)) | to.astype(kind) << kind(RANK_SHIFT))

    return step


@effect("getctarank")
def rank_of(instr: Instr, m: Machine) -> Step:
    type_ = instr.mods[-1]
    put, get = m.writer(instr.operands[0], "u32", instr), m.reader(instr.operands[1], type_, instr)

    def step(gang: Gang) -> None:
        address = get(gang)
        put(gang, (address >> address.dtype.type(RANK_SHIFT)).astype(np.uint32) & np.uint32(0xFF))

    return step


class ClusterBarrier:
    """The barrier of all threads of a cluster that have not left."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        m.resets.append(self.reset)
        self.reset()

    def reset(self) -> None:
        """A new cohort."""
        self.generation = 0
        self.ticket = np.full(self.m.threads, -1)  # the generation that a thread has arrived in and not yet waited for
        self.coming: list[Ints] = []
        self.known: list[Ints] = []

    def arrive(self, gang: Gang, releases: bool) -> None:
        """Threads arrive; without .release they hand on what they knew at their last fence."""
        order = self.m.order
        twice = self.ticket[gang.threads] >= 0
        if twice.any():
            raise self.m.hazard(
                DivergenceHazard, "a second arrival at the cluster's barrier without a wait", gang, int(twice.argmax())
            )
        self.ticket[gang.threads] = self.generation
        for warp in gang.warps.tolist():
            if releases:
                self.coming.append(order.release(warp))
            elif order.has_fenced[warp]:
                self.coming.append(order.fenced(warp).copy())
        self.settle()

    def settle(self) -> None:
        """Whether all have arrived now."""
        if (self.ticket[self.m.alive()] == self.generation).all():
            self.generation += 1
            self.known, self.coming = self.coming, []
            self.m.changed()

    def wait(self, gang: Gang, acquires: bool) -> NDArray[np.bool_] | None:
        """Those who must wait still."""
        absent = self.ticket[gang.threads] < 0
        if absent.any():
            raise self.m.hazard(
                DivergenceHazard, "a wait at the cluster's barrier without an arrival", gang, int(absent.argmax())
            )
        blocked = self.ticket[gang.threads] >= self.generation
        if blocked.any():
            self.settle()  # somebody may have left since
            blocked = self.ticket[gang.threads] >= self.generation
        if not blocked.all():
            passing = gang.narrow(~blocked)
            self.ticket[passing.threads] = -1
            for known in self.known if acquires else ():
                self.m.order.acquire(passing.warps, known)
        return blocked

    def explain(self, threads: NDArray[np.intp]) -> str:
        """Who is missing."""
        missing = int(np.count_nonzero(self.m.alive() & (self.ticket != self.generation)))
        return f"the cluster's barrier, where {missing} threads have not arrived"


@effect("barrier.cluster.arrive")
def cluster_arrive(instr: Instr, m: Machine) -> Step:
    barrier, releases = m.part(ClusterBarrier), "relaxed" not in instr.mods
    return lambda gang: barrier.arrive(gang, releases)


@effect("barrier.cluster.wait")
def cluster_wait(instr: Instr, m: Machine) -> Step:
    barrier, acquires = m.part(ClusterBarrier), "relaxed" not in instr.mods

    def step(gang: Gang) -> NDArray[np.bool_] | None:
        return barrier.wait(gang, acquires)

    step.explain = barrier.explain  # type: ignore[attr-defined]
    return step


@effect("elect.sync")
def elect(instr: Instr, m: Machine) -> Step:
    """The lowest of the members is the one; the ISA leaves open which."""
    target, members = instr.operands
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, Reg("_"))
    put, put_chosen = m.writer(first, "b32", instr), m.writer(second, "pred", instr)

    def act(gang: Gang, masks: Masks) -> None:
        lowest = masks & (~masks + np.uint32(1))
        leader = np.log2(lowest.astype(np.float64)).astype(np.uint32)
        put(gang, leader)
        put_chosen(gang, leader == gang.lane_of)

    return together(instr, m, members, act)


@effect("setmaxnreg")
def set_registers(instr: Instr, m: Machine) -> Step:
    """How many registers a warp has changes no value."""
    count = instr.operands[0]
    refuse_unless(instr.mods in (("inc", "sync", "aligned", "u32"), ("dec", "sync", "aligned", "u32")), instr)
    if not isinstance(count, Imm) or not (24 <= count.value <= 256 and count.value % 8 == 0):
        raise refuse(instr, "registers must be a multiple of 8 from 24 to 256")
    return lambda gang: None


@effect("griddepcontrol")
def dependent_launch(instr: Instr, m: Machine) -> Step:
    """Launches run one after the other: what one waits for is over."""
    refuse_unless(instr.mods in (("wait",), ("launch_dependents",)), instr)
    return lambda gang: None
