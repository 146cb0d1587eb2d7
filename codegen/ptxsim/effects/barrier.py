"""bar and barrier: the sixteen named barriers of every CTA."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.effects import Step, effect
from treadle.codegen.ptxsim.gang import WARP, Gang
from treadle.codegen.ptxsim.hazards import DivergenceHazard, refuse
from treadle.codegen.ptxsim.machine import Machine
from treadle.codegen.ptxsim.schedule import EXITED
from treadle.codegen.ptxsim.syntax import Imm, Instr

BARRIERS = 16


@dataclass
class _Barrier:
    """One barrier of one CTA."""

    expected: int = 0
    generation: int = 0
    arrived: list[NDArray[np.intp]] = field(default_factory=list)
    votes: list[NDArray[np.bool_]] = field(default_factory=list)
    result: Any = None

    @property
    def count(self) -> int:
        return sum(len(a) for a in self.arrived)


class Barriers:
    """All barriers of a cohort. A thread that has arrived holds the generation it waits for as its ticket."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        m.resets.append(self.reset)
        m.checks_at_exit.append(self._left_behind)
        self.reset()

    def reset(self) -> None:
        """A new cohort."""
        self.of: dict[tuple[int, int], _Barrier] = {}
        self.ticket = np.full(self.m.threads, -1)

    def arrive(self, gang: Gang, cta: int, number: int, expected: int, votes: NDArray[np.bool_] | None) -> None:
        """Threads of one CTA arrive."""
        barrier = self.of.setdefault((cta, number), _Barrier())
        if not barrier.arrived:
            barrier.expected = expected
        elif barrier.expected != expected:
            raise self.m.hazard(
                DivergenceHazard, f"barrier {number} is waited for by {barrier.expected} threads and by {expected}", gang, 0
            )
        self._aligned(gang, number)
        barrier.arrived.append(gang.threads)
        if votes is not None:
            barrier.votes.append(votes)
        self.ticket[gang.threads] = barrier.generation
        if barrier.count > expected:
            raise self.m.hazard(
                DivergenceHazard, f"{barrier.count} threads arrive at barrier {number}, which waits for {expected}", gang, 0
            )
        if barrier.count == expected:
            self.m.order.meet(np.unique(np.concatenate(barrier.arrived) // WARP))
            barrier.result = np.concatenate(barrier.votes) if barrier.votes else None
            barrier.generation += 1
            barrier.arrived, barrier.votes = [], []
            self.m.changed()

    def _aligned(self, gang: Gang, number: int) -> None:
        """Lanes of one warp arrive at the same instruction, or the barrier is divergent."""
        m = self.m
        if not (self.ticket >= 0).any():
            return
        for warp in gang.warps.tolist():
            lanes = slice(warp * WARP, (warp + 1) * WARP)
            elsewhere = (self.ticket[lanes] >= 0) & (m.pc[lanes] != m.here) & (m.state[lanes] != EXITED)
            if elsewhere.any():
                there = m.entry.body[int(m.pc[lanes][elsewhere][0])]
                raise m.hazard(
                    DivergenceHazard, f"lanes of one warp wait at different barrier instructions: here and at {there.where}", gang, 0
                )  # fmt: skip

    def _left_behind(self) -> None:
        for (cta, number), barrier in self.of.items():
            if barrier.arrived:
                thread = int(barrier.arrived[0][0])
                raise DivergenceHazard(
                    f"the kernel ended with {barrier.count} of {barrier.expected} threads arrived at barrier {number} of CTA {cta}",
                    place=self.m.place(thread),
                )  # fmt: skip


def barriers(m: Machine) -> Barriers:
    """The cohort's barriers, made on first use."""
    if m.barriers is None:
        m.barriers = Barriers(m)
    made: Barriers = m.barriers
    return made


@effect("bar", "barrier")
def bar(instr: Instr, m: Machine) -> Step:
    mods = [x for x in instr.mods if x not in ("cta", "aligned")]
    kind = mods[0]
    operands = list(instr.operands)
    reduces = kind == "red"
    put = m.writer(operands.pop(0), mods[2], instr) if reduces else None
    vote = m.reader(operands.pop(), "pred", instr) if reduces else None
    if kind not in ("sync", "arrive", "red") or not 1 <= len(operands) <= 2:
        raise refuse(instr)
    number = m.reader(operands[0], "u32", instr)
    wanted = m.reader(operands[1] if len(operands) > 1 else Imm(m.cta_threads), "u32", instr)
    every = barriers(m)
    blocking = kind != "arrive"

    def step(gang: Gang) -> NDArray[np.bool_] | None:
        ids = np.broadcast_to(number(gang), (gang.n,)).astype(np.int64)
        counts = np.broadcast_to(wanted(gang), (gang.n,)).astype(np.int64)
        if (len(operands) > 1 and (counts % WARP).any()) or (ids >= BARRIERS).any():
            raise m.hazard(DivergenceHazard, f"barrier {ids[0]} for {counts[0]} threads: of 16, and multiples of 32", gang, 0)
        keys = m.cta_of(gang) * BARRIERS + ids
        blocked = np.zeros(gang.n, bool)
        for key in np.unique(keys).tolist():  # one, unless it is a cluster
            mask = keys == key
            part = gang.narrow(mask)
            blocked[mask] = meet(part, key // BARRIERS, key % BARRIERS, int(counts[mask][0]))
        return blocked if blocked.any() else None

    def meet(gang: Gang, cta: int, number: int, count: int) -> NDArray[np.bool_]:
        fresh = every.ticket[gang.sel] < 0
        if fresh.any():
            arriving = gang.narrow(fresh)
            votes = np.broadcast_to(vote(arriving), (arriving.n,)) if vote else None
            every.arrive(arriving, cta, number, count, votes)
        barrier = every.of[cta, number]
        waits = every.ticket[gang.sel] >= barrier.generation if blocking else np.zeros(gang.n, bool)
        if not waits.all():
            passing = gang.narrow(~waits)
            every.ticket[passing.sel] = -1
            if put is not None:
                put(passing, _reduced(mods[1], barrier.result))
        return waits

    def explain(threads: NDArray[np.intp]) -> str:
        found = [f"barrier {n} has {b.count} of {b.expected} threads" for (_, n), b in every.of.items() if b.arrived]
        gone = int(np.count_nonzero((m.state == EXITED) & (np.arange(m.threads) % m.cta_stride < m.cta_threads)))
        return ", ".join(found) + (f"; {gone} threads have left the kernel" if gone else "")

    step.explain = explain  # type: ignore[attr-defined]
    return step


def _reduced(operation: str, votes: NDArray[np.bool_]) -> Any:
    match operation:
        case "popc":
            return np.uint32(np.count_nonzero(votes))
        case "and":
            return np.array(bool(votes.all()))
        case _:
            return np.array(bool(votes.any()))
