"""The mbarriers of a cohort: their phases, arrivals and bytes, kept beside the 64 bits of shared memory that stand for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import PhaseHazard, ProxyHazard, RaceHazard
from treadle.codegen.ptxsim.memory import Engine
from treadle.codegen.ptxsim.order import Ints

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.machine import Machine

MOST = (1 << 20) - 1  # arrivals, and bytes in either direction
_PHASE = 24  # where the phase begins in the state that an arrival returns; below it, the arrivals still pending


@dataclass
class Mbarrier:
    """One mbarrier. The bytes that a phase still waits for are below 0 where more have come than were announced so far."""

    address: int
    expected: int
    pending: int
    made: tuple[int, int]  # warp and clock of its init
    phase: int = 0
    bytes: int = 0
    coming: Ints | None = None  # what those know who have arrived in this phase
    known: Ints | None = None  # ... in the phases that are over

    def __str__(self) -> str:
        return (
            f"mbarrier at shared address {self.address & 0xFFFFFF:#x}, phase {self.phase} (parity {self.phase & 1}): "
            f"{self.pending} of {self.expected} arrivals and {self.bytes} bytes outstanding"
        )

    @property
    def state(self) -> int:
        """The opaque state of this moment."""
        return self.phase << _PHASE | self.pending

    def add(self, known: Ints) -> None:
        """Somebody who arrives hands on what it knows."""
        self.coming = known if self.coming is None else _join(self.coming, known)


def _join(a: Ints, b: Ints) -> Ints:
    size = max(len(a), len(b))
    return np.maximum(np.pad(a, (0, size - len(a))), np.pad(b, (0, size - len(b))))


def pending_of(state: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Arrivals that were pending when a state was returned."""
    return (state & np.uint64((1 << _PHASE) - 1)).astype(np.uint32)


def phase_of(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The phase that a state was returned in."""
    return state >> np.uint64(_PHASE)


class Mbarriers:
    """All mbarriers of a cohort."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        m.resets.append(self.reset)
        self.reset()

    def reset(self) -> None:
        """A new cohort."""
        self.of: dict[int, Mbarrier] = {}
        self.progress = 0  # counts whatever happens to any of them
        self._fenced = np.full(self.m.warps, -1)  # each warp's clock at its last fence.mbarrier_init
        self.waits_at = np.full(self.m.threads, -1)  # the mbarrier that a thread stands and waits for
        self.waits_for = np.zeros(self.m.threads, np.int64)  # ... and the phase

    def init(self, gang: Gang, address: int, count: int) -> None:
        """A new mbarrier, by the first thread of a gang."""
        if not 1 <= count <= MOST:
            raise self.m.hazard(PhaseHazard, f"an mbarrier for {count} arrivals, not 1 to {MOST}", gang, 0, address)
        if address in self.of:
            raise self.m.hazard(
                PhaseHazard, f"the {self.of[address]} is initialised again, and was not invalidated", gang, 0, address
            )
        warp = int(gang.warp_of[0])
        self.of[address] = Mbarrier(address, count, count, (warp, int(self.m.order.seen[warp, warp])))

    def invalidate(self, gang: Gang, address: int) -> None:
        """Its memory is free for other use."""
        del self.of[self.find(gang, np.zeros(1, np.intp), address).address]

    def fence(self, warps: NDArray[np.intp]) -> None:
        """fence.mbarrier_init: what was initialised is there for asynchronous engines and for the cluster."""
        self._fenced[warps] = self.m.order.seen[warps, warps]
        self.m.order.fence(warps)

    def find(self, actor: Gang | Engine, threads: NDArray[np.intp], address: int) -> Mbarrier:
        """The mbarrier at an address, for some of a gang's threads: all must know of its init."""
        found = self.of.get(address)
        if found is None:
            raise self.m.hazard(
                PhaseHazard, f"no mbarrier was initialised at shared address {address:#x}", actor, int(threads[0]), address
            )
        warp, clock = found.made
        agents = np.array([actor.agent]) if isinstance(actor, Engine) else actor.warp_of[threads]
        late = self.m.order.seen[agents, warp] < clock
        if late.any():
            raise self.m.hazard(
                RaceHazard, f"a race: nothing orders this after the init of the {found}", actor, int(threads[late.argmax()]), address
            )  # fmt: skip
        return found

    def claim(self, engine: Engine, issuer: int, address: int) -> Mbarrier:
        """The mbarrier that an engine is to report to: it must be there, for the engine too."""
        m = self.m
        m.shared.atomic(engine, np.array([address], np.uint64), 8)
        barrier = self.find(engine, np.zeros(1, np.intp), address)
        warp, clock = barrier.made
        one = np.array([warp])
        if not m.order.crossed(issuer, one, np.array([clock]))[0] and self._fenced[warp] < clock:
            raise m.hazard(
                ProxyHazard, f"the {barrier}: no fence.mbarrier_init or fence.proxy.async makes its initialisation visible to the "
                "asynchronous proxy", engine, 0, address,
            )  # fmt: skip
        return barrier

    # -- what happens to one -------------------------------------------------------------------------------------------

    def arrive(self, b: Mbarrier, actor: Gang | Engine, index: int, count: int, may_complete: bool = True) -> None:
        """`count` arrivals."""
        self.progress += 1
        if not 1 <= count <= b.pending:
            raise self.m.hazard(PhaseHazard, f"{count} arrivals at the {b}", actor, index, b.address)
        if count == b.pending and not may_complete:
            raise self.m.hazard(
                PhaseHazard, f"an arrival that must not complete the phase completes it: {b}", actor, index, b.address
            )
        b.pending -= count
        self._settle(b, actor, index)

    def expect(self, b: Mbarrier, actor: Gang | Engine, index: int, count: int) -> None:
        """`count` more bytes are to come (fewer, where it is negative: they came)."""
        self.progress += 1
        b.bytes += count
        if abs(b.bytes) > MOST:
            raise self.m.hazard(PhaseHazard, f"more bytes than an mbarrier can count, {MOST}: {b}", actor, index, b.address)

    def complete(self, b: Mbarrier, actor: Gang | Engine, index: int, count: int) -> None:
        """`count` bytes came."""
        self.expect(b, actor, index, -count)
        self._settle(b, actor, index)

    def _settle(self, b: Mbarrier, actor: Gang | Engine, index: int) -> None:
        if b.pending:
            return
        if b.bytes < 0:
            raise self.m.hazard(PhaseHazard, f"{-b.bytes} more bytes came than were announced: {b}", actor, index, b.address)
        if b.bytes:
            return
        if b.coming is not None:
            b.known = b.coming if b.known is None else _join(b.known, b.coming)
        b.coming, b.pending = None, b.expected
        b.phase += 1
        late = (self.waits_at == b.address) & (self.waits_for < b.phase - 1)
        if late.any():
            thread = int(late.argmax())
            raise self.m.hazard(
                PhaseHazard, f"phase {b.phase - 1} of the mbarrier at shared address {b.address & 0xFFFFFF:#x} ends before "
                f"{self.m.agent_name(thread // 32, thread % 32)} has seen the end of the one before, which it waits for by parity",
                actor, index, b.address,
            )  # fmt: skip
        self.m.changed()

    def explain(self, threads: NDArray[np.intp]) -> str:
        """What threads wait for."""
        at = np.unique(self.waits_at[threads])
        found = [str(self.of[a]) for a in at.tolist() if a in self.of]
        return "; ".join(found)
