"""Asynchronous engines: the agents that act for threads which have gone on, and the shared addresses that they are given.

An operation is held against everything where it is issued: bounds, order, initialisation. From there on its accesses belong to
an agent of its own, of which nobody knows until a wait; so whoever touches its bytes too early meets a PendingHazard, whether
or not the bytes have landed by then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import BoundsHazard, MisalignedHazard, ProxyHazard, refuse
from treadle.codegen.ptxsim.memory import Addresses, Engine, Space
from treadle.codegen.ptxsim.order import Ints, written_by

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.machine import Machine
    from treadle.codegen.ptxsim.syntax import Instr, Operand

_SHARED_WINDOW = 1  # of generic addresses


class Delegate(Gang):
    """A gang whose accesses are made by engines, an agent per thread."""

    def __init__(self, gang: Gang, agents: NDArray[np.intp]) -> None:
        super().__init__(gang.threads)
        self.warp_of = agents


class Engines:
    """The agents of a cohort that are not warps. Few exist: one whose work is done is taken again."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        m.resets.append(self.reset)
        self.reset()

    def reset(self) -> None:
        """A new cohort."""
        self._free: list[int] = []
        self.m.engines.clear()
        self._fencers = np.arange(self.m.warps)  # whose proxy fence makes an agent's writes visible; of engines themselves: -1

    def agent(self, warps: Ints | int, fencer: int = -1) -> int:
        """An agent that knows what the issuing warps know. `fencer`: the warp, where the engine writes by the generic proxy."""
        made = self._free.pop() if self._free else self.m.order.new_agent()
        if made >= len(self._fencers):
            self._fencers = np.pad(self._fencers, (0, made + 1 - len(self._fencers)), constant_values=-1)
        self._fencers[made] = fencer
        self.m.order.follow(made, warps)
        instr = self.m.entry.body[self.m.here]
        since = int(self.m.order.seen[made, made])
        self.m.engines.setdefault(made, []).append((since, f"what {instr.name} at {instr.where} began"))
        return made

    def engine(self, gang: Gang, index: int, agent: int | None = None) -> Engine:
        """An engine that acts for one thread of a gang."""
        if agent is None:
            agent = self.agent(int(gang.warp_of[index]))
        return Engine(agent, self.m.place(int(gang.threads[index])))

    def finished(self, agent: int) -> Ints:
        """The agent's work is done: what whoever waits for it learns."""
        self._free.append(agent)
        return self.m.order.release(agent)

    def require_fence(self, engine: Engine, issuers: NDArray[np.intp], space: Space, address: Addresses, size: int) -> None:
        """What the generic proxy wrote at these addresses must have crossed to the asynchronous one."""
        assert space.shadow is not None
        offset = space.locate(engine, address, size)
        granules = space.granules(offset, size)
        writers, clocks = written_by(space.shadow.written[granules.ravel()])
        known = np.where(writers < len(self._fencers), writers, -1)
        fencers = np.where(known >= 0, self._fencers[known], -1)
        bad = fencers >= 0
        if not bad.any():
            return
        for issuer in issuers.tolist():
            bad &= ~self.m.order.crossed(issuer, known, clocks, fencers)
        if bad.any():
            i = int(bad.argmax()) // granules.shape[1]
            raise self.m.hazard(
                ProxyHazard, f"{space.name} address {int(address[i]):#x} was written by a thread, and no fence.proxy.async makes "
                "that visible to the asynchronous proxy", engine, 0, int(address[i]),
            )  # fmt: skip


def shared_address(operand: Operand, instr: Instr, m: Machine) -> Callable[[Gang], Addresses]:
    """Addresses in shared memory, also where they are given as generic ones; of another CTA only under shared::cluster."""
    get = m.address(operand, instr)
    generic = not any(x.startswith("shared") for x in instr.mods)
    anywhere = any(x == "shared::cluster" for x in instr.mods)

    def of(gang: Gang) -> Addresses:
        address = get(gang)
        if generic:
            strange = address >> np.uint64(48) != _SHARED_WINDOW
            if strange.any():
                i = int(strange.argmax())
                raise m.hazard(BoundsHazard, f"{int(address[i]):#x} is no address of shared memory", gang, i, int(address[i]))
            address = address & np.uint64((1 << 48) - 1)
        if not anywhere and m.ctas > 1:
            m.shared.require_own(gang, address)
        return address

    return of


def aligned(m: Machine, actor: Gang | Engine, index: int, address: int, least: int, what: str) -> None:
    """Refuse an address that is no multiple of `least`."""
    if address % least:
        raise m.hazard(MisalignedHazard, f"{what} {address:#x} is no multiple of {least}", actor, index, address)


def run(start: int, length: int) -> tuple[Addresses, int]:
    """A run of bytes as the widest elements that it consists of: their addresses and width."""
    both = start | length | 8
    width = both & -both
    return np.arange(start, start + length, width, dtype=np.uint64), width


def every(get: Callable[[Gang], NDArray[Any]], gang: Gang) -> list[int]:
    """A value per thread, as integers."""
    values: list[int] = np.broadcast_to(get(gang), (gang.n,)).tolist()
    return values


def without_policy(instr: Instr) -> tuple[Operand, ...]:
    """The operands without a cache policy, which changes no value."""
    return instr.operands[:-1] if "L2::cache_hint" in instr.mods else instr.operands


def refuse_unless(known: bool, instr: Instr) -> None:
    """A form outside the table."""
    if not known:
        raise refuse(instr)
