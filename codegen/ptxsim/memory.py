"""The state spaces, and what every access to them is held against: bounds, alignment, initialisation, order, pending work.

An access names an actor (a gang, or an engine on behalf of a thread), an address per element, and a width. Addresses are
what the kernel sees: device pointers in global memory; CTA rank << 24 | offset in shared; offsets in local and param.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import MisalignedHazard, PendingHazard, RaceHazard, UninitialisedHazard
from treadle.codegen.ptxsim.order import ENGINE_LANE, Shadow, unpack

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.hazards import Place
    from treadle.codegen.ptxsim.machine import Machine

Bytes = NDArray[np.uint8]
Addresses = NDArray[np.uint64]
RANK_SHIFT = 24
UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class Engine:
    """An asynchronous engine at work for a thread: an agent of its own, and the place where it was asked."""

    agent: int
    place: Place


class Space:
    """One state space. Subclasses say where an address lies."""

    name = ""

    def __init__(self, machine: Machine, data: Bytes, written: Bytes) -> None:
        self.machine = machine
        self.data, self.written = data, written
        self._data = {w: data.view(t) for w, t in UINT.items()}
        self._written = {w: written.view(t) for w, t in UINT.items()}
        self.granule = 4
        self.shadow: Shadow | None = None

    # -- accesses ------------------------------------------------------------------------------------------------------

    def load(self, actor: Gang | Engine, address: Addresses, width: int, count: int = 1, strong: bool = False) -> NDArray[Any]:
        """Raw elements, [n, count], unsigned of `width` bytes."""
        offset = self.locate(actor, address, width * count)
        self._order(actor, address, offset, width * count, False, strong)
        self._require_written(actor, address, offset, width * count)
        return self.fetch(offset, width, count)

    def store(self, actor: Gang | Engine, address: Addresses, values: NDArray[Any], strong: bool = False) -> None:
        """Write raw elements, [n, count]."""
        width, count = values.dtype.itemsize, values.shape[1]
        offset = self.locate(actor, address, width * count)
        self._order(actor, address, offset, width * count, True, strong)
        self.put(offset, values)

    def atomic(self, actor: Gang | Engine, address: Addresses, width: int, reads: bool = True) -> NDArray[np.int64]:
        """The checks of a read-modify-write; returns the offsets to perform it at."""
        offset = self.locate(actor, address, width)
        self._order(actor, address, offset, width, True, True)
        if reads:
            self._require_written(actor, address, offset, width)
        return offset

    def claim(self, actor: Gang | Engine, address: Addresses, size: int) -> NDArray[np.int64]:
        """The checks of a write whose bytes come later; returns the offsets to `put` them at."""
        offset = self.locate(actor, address, size)
        self._order(actor, address, offset, size, True, False)
        return offset

    def fetch(self, offset: NDArray[np.int64], width: int, count: int) -> NDArray[Any]:
        """Elements at offsets already located and checked."""
        at = offset // width
        return self._data[width][at[:, None] if count == 1 else at[:, None] + np.arange(count)]

    def put(self, offset: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Elements to offsets already located and checked."""
        width, count = values.dtype.itemsize, values.shape[1]
        at = (offset // width)[:, None] + np.arange(count)
        self._data[width][at] = values
        self._written[width][at] = 0x0101010101010101 & ((1 << 8 * width) - 1)

    # -- checks --------------------------------------------------------------------------------------------------------

    def locate(self, actor: Gang | Engine, address: Addresses, size: int) -> NDArray[np.int64]:
        """Offsets into `data`, after the checks of bounds and alignment."""
        raise NotImplementedError

    def describe(self, address: int) -> str:
        """What lies nearest to an address, for messages."""
        return ""

    def _align(self, actor: Gang | Engine, address: Addresses, size: int) -> None:
        least = size & -size
        self._refuse(actor, address, (address & np.uint64(least - 1)) != 0, MisalignedHazard,
                     lambda a: f"{self.name} address {a:#x} is no multiple of {least}")  # fmt: skip

    def _require_written(self, actor: Gang | Engine, address: Addresses, offset: NDArray[np.int64], size: int) -> None:
        unit = min(size & -size, 8)
        at = offset // unit
        have = self._written[unit][at if size == unit else at[:, None] + np.arange(size // unit)]
        whole = have == (0x0101010101010101 & ((1 << 8 * unit) - 1))
        if np.count_nonzero(whole) == whole.size:
            return
        bad = ~whole if whole.ndim == 1 else ~whole.all(axis=1)
        self._refuse(actor, address, bad, UninitialisedHazard,
                     lambda a: f"{size} bytes of {self.name} memory at {a:#x} are read and nobody wrote all of them{self.describe(a)}")  # fmt: skip

    def _order(
        self, actor: Gang | Engine, address: Addresses, offset: NDArray[np.int64], size: int, write: bool, strong: bool
    ) -> None:
        if self.shadow is None:
            return
        granules = self.granules(offset, size)
        per = granules.shape[1]
        flat = granules.ravel()
        agent, lane = self._who(actor, len(address), per)
        note = self.shadow.note_write if write else self.shadow.note_read
        races = note(flat, agent, lane, strong)
        if races.any():
            first = races.reshape(-1, per).max(axis=1)
            i = int(np.argmax(first != 0))
            kind = RaceHazard if unpack(int(first[i]))[0] < self.machine.warps else PendingHazard
            raise self.machine.hazard(
                kind, self._race(int(address[i]), int(first[i]), write), actor, i, address=int(address[i])
            )
        self._between_ctas(actor, address, flat, per, write, strong)

    def _between_ctas(
        self, actor: Gang | Engine, address: Addresses, granules: NDArray[np.int64], per: int, write: bool, strong: bool
    ) -> None:
        """Accesses of CTAs that do not run together; only global memory has such."""

    @staticmethod
    def _who(actor: Gang | Engine, n: int, per: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if isinstance(actor, Engine):
            return np.full(n * per, actor.agent, np.int64), np.full(n * per, ENGINE_LANE, np.int64)
        if per == 1:
            return actor.warp_of, actor.lane_of
        return np.repeat(actor.warp_of, per), np.repeat(actor.lane_of, per)

    def granules(self, offset: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        """What the shadow knows the bytes at offsets by, [n, granules of an access]."""
        first = offset // self.granule
        return first[:, None] + np.arange(max(1, size // self.granule))

    def _race(self, address: int, stamp: int, write: bool) -> str:
        agent, lane, clock = unpack(stamp)
        other = self.machine.agent_name(agent, lane, clock)
        if agent >= self.machine.warps:
            return f"{'write' if write else 'read'} of {self.name} address {address:#x} without a wait for {other}"
        return (
            f"a race: {'write' if write else 'read'} of {self.name} address {address:#x}, and nothing orders it after the "
            f"access by {other}"
        )

    def _refuse(
        self, actor: Gang | Engine, address: Addresses, bad: NDArray[np.bool_], kind: type, says: Callable[[int], str]
    ) -> None:
        if not np.count_nonzero(bad):
            return
        i = int(np.argmax(bad))
        raise self.machine.hazard(kind, says(int(address[i])), actor, i, address=int(address[i]))
