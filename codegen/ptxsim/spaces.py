"""Shared, local and parameter memory: where their addresses lie, and who may touch them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.gang import WARP, Gang
from treadle.codegen.ptxsim.hazards import BoundsHazard
from treadle.codegen.ptxsim.memory import RANK_SHIFT, Addresses, Engine, Space
from treadle.codegen.ptxsim.order import Order, Shadow
from treadle.codegen.ptxsim.pages import column

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.machine import Machine


class Shared(Space):
    """The shared memories of a cohort's CTAs, each with gaps between its variables that belong to nobody."""

    name = "shared"
    STRIDE = 1 << 18

    def __init__(self, machine: Machine, order: Order, granule: int) -> None:
        size = machine.ctas * self.STRIDE
        super().__init__(machine, np.zeros(size, np.uint8), np.zeros(size, np.uint8))
        self.granule = granule
        self.used = machine.layout.shared_end
        self._own = np.zeros(self.STRIDE, bool)
        for begin, length in machine.layout.shared_ranges:
            self._own[begin : begin + length] = True
        granules = size // granule
        self.shadow = Shadow(order, column(granules), column(granules * order.warps).reshape(order.warps, granules))

    def reset(self) -> None:
        """New CTAs: nothing is written."""
        for cta in range(self.machine.ctas):
            begin = cta * self.STRIDE
            self.written[begin : begin + self.used] = 0
        self._visits: dict[tuple[int, int], tuple[int, int, int, int]] = {}

    def locate(self, actor: Gang | Engine, address: Addresses, size: int) -> NDArray[np.int64]:
        self._align(actor, address, size)
        rank = (address >> np.uint64(RANK_SHIFT)).astype(np.int64)
        within = (address & np.uint64((1 << RANK_SHIFT) - 1)).astype(np.int64)
        good = (rank < self.machine.ctas) & (within + size <= self.STRIDE)
        safe = np.where(good, within, 0)
        good &= self._own[safe] & self._own[safe + size - 1]
        if self.machine.ctas > 1:
            self._visit(actor, address, rank)
        self._refuse(actor, address, ~good, BoundsHazard,
                     lambda a: f"{size} bytes at shared address {a & 0xFFFFFF:#x} lie outside every shared variable"
                               f"{self.describe(a)}")  # fmt: skip
        return rank * self.STRIDE + within

    def require_own(self, gang: Gang, address: Addresses) -> None:
        """An access that does not say ::cluster stays within its own CTA."""
        foreign = (address >> np.uint64(RANK_SHIFT)).astype(np.int64) != self.machine.cta_of(gang)
        self._refuse(gang, address, foreign, BoundsHazard, lambda a: f"shared address {a:#x} is another CTA's")

    def _visit(self, actor: Gang | Engine, address: Addresses, rank: NDArray[np.int64]) -> None:
        """The memory of a CTA ends with it; who comes from another one is remembered until then."""
        m = self.machine
        there = np.asarray(m.alive().reshape(m.ctas, -1).any(axis=1))
        if not there.all():
            self._refuse(actor, address, ~there[np.minimum(rank, m.ctas - 1)], BoundsHazard,
                         lambda a: f"shared address {a:#x} belongs to a CTA of the cluster that has left the kernel")  # fmt: skip
        if isinstance(actor, Gang):
            for i in np.flatnonzero(rank != m.cta_of(actor)).tolist():
                agent = int(actor.warp_of[i])
                self._visits[int(rank[i]), agent] = (
                    int(m.order.seen[agent, agent]),
                    int(actor.threads[i]),
                    m.here,
                    int(address[i]),
                )

    def leave(self, rank: int) -> None:
        """The last thread of a CTA has left: all accesses by others must have been known to it."""
        m = self.machine
        warps = m.cta_stride // WARP
        known = m.order.seen[rank * warps : (rank + 1) * warps].max(axis=0)
        for (owner, agent), (clock, thread, pc, address) in self._visits.items():
            if owner == rank and clock > known[agent]:
                raise BoundsHazard(
                    f"shared address {address:#x} belongs to a CTA of the cluster that may have left the kernel by then: nothing "
                    "orders its end after this access", place=m.place(thread, pc), address=address,
                )  # fmt: skip

    def describe(self, address: int) -> str:
        return _nearest(self.machine.layout.shared, address & ((1 << RANK_SHIFT) - 1))


def _nearest(variables: dict[str, tuple[int, int]], address: int) -> str:
    """The last variable that begins at or before an address, in words."""
    before = [(at, name, size) for name, (at, size) in variables.items() if at <= address]
    if not before:
        return ""
    at, name, size = max(before)
    return f"; {address - at} bytes into {name}, which has {size}"


class Local(Space):
    """Every thread's own memory."""

    name = "local"

    def __init__(self, machine: Machine, size: int) -> None:
        self.size = -(-size // 16) * 16
        total = self.size * machine.threads
        super().__init__(machine, np.zeros(total, np.uint8), np.zeros(total, np.uint8))
        self._own = np.zeros(self.size + 1, bool)
        for begin, length in machine.layout.local.values():
            self._own[begin : begin + length] = True

    def reset(self) -> None:
        """New CTAs: nothing is written."""
        self.written[:] = 0

    def locate(self, actor: Gang | Engine, address: Addresses, size: int) -> NDArray[np.int64]:
        assert isinstance(actor, Gang)
        self._align(actor, address, size)
        within = np.minimum(address, self.size).astype(np.int64)  # the byte past the end is nobody's
        good = self._own[within] & self._own[np.minimum(within + size - 1, self.size)]
        self._refuse(actor, address, ~good, BoundsHazard,
                     lambda a: f"{size} bytes at local address {a:#x} lie outside every local variable{self.describe(a)}")  # fmt: skip
        return actor.threads * self.size + within

    def describe(self, address: int) -> str:
        return _nearest(self.machine.layout.local, address)


class Param(Space):
    """The kernel's parameters, the same for all."""

    name = "parameter"

    def __init__(self, machine: Machine, size: int) -> None:
        self.size = size
        whole = -(-max(size, 1) // 16) * 16
        super().__init__(machine, np.zeros(whole, np.uint8), np.ones(whole, np.uint8))

    def locate(self, actor: Gang | Engine, address: Addresses, size: int) -> NDArray[np.int64]:
        self._align(actor, address, size)
        self._refuse(actor, address, address + np.uint64(size) > self.size, BoundsHazard,
                     lambda a: f"{size} bytes at offset {a} of the parameters, of {self.size}")  # fmt: skip
        return address.astype(np.int64)
