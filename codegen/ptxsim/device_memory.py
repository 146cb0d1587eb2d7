"""Device memory: one range of addresses, what is allocated in it, and who touched what during a launch."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import BoundsHazard, RaceHazard
from treadle.codegen.ptxsim.memory import Addresses, Bytes, Engine, Space
from treadle.codegen.ptxsim.order import Order, Shadow
from treadle.codegen.ptxsim.pages import column, reserve
from treadle.errors import ArgumentError

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.machine import Machine
    from treadle.codegen.ptxsim.syntax import Module


class History:
    """Who touched device memory, for kernels whose smallest access is one granule: shared by all launches.

    `written` and `read` are the shadow of the cohort that runs; `writer` and `reader` say which cohort of which launch it
    was, and are seen by the processes that CTAs are shared out to.
    """

    def __init__(self, granules: int) -> None:
        self.written, self.read = column(granules), column(granules)[None]
        self.writer, self.reader = column(granules, shared=True), column(granules, shared=True)


class DeviceMemory:
    """Bytes [base, base + len(buffer)) of a device. The buffer is the caller's, and shared where launches use processes."""

    #: At the end of memory, for variables of modules; whoever hands out addresses stays below.
    TOP = 4 << 20

    def __init__(self, buffer: Bytes, base: int) -> None:
        if base % 4096 or len(buffer) % 4096:
            raise ValueError("device memory begins and ends at a page")
        self.buffer, self.base = buffer, base
        self.initialised = reserve(len(buffer), shared=True)
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.past = 0  # no clock of a cohort that ran on it is above
        self.launches = 0
        self._histories: dict[int, History] = {}
        self.machines: dict[Any, Any] = {}  # of launches on this memory, by their shapes
        self._symbols: dict[int, tuple[Module, dict[str, int]]] = {}  # by identity, which the module kept here makes safe
        self._top = base + len(buffer)
        self._table: tuple[NDArray[np.uint64], NDArray[np.uint64]] | None = None

    def allocate(self, address: int, size: int) -> None:
        """Bytes that kernels may touch from now on; nobody has written them."""
        i = bisect.bisect(self._starts, address)
        self._starts.insert(i, address)
        self._ends.insert(i, address + size)
        self._table = None
        self.initialised[address - self.base : address - self.base + size] = 0

    def free(self, address: int) -> None:
        """They may not any more."""
        i = self._starts.index(address)
        del self._starts[i], self._ends[i]
        self._table = None

    def written(self, address: int, size: int) -> None:
        """The host has written here."""
        self.initialised[address - self.base : address - self.base + size] = 1

    def history(self, granule: int) -> History:
        """Who touched it, by granules of that many bytes."""
        if granule not in self._histories:
            self._histories[granule] = History(len(self.buffer) // granule)
        return self._histories[granule]

    def symbols(self, module: Module) -> dict[str, int]:
        """Addresses of a module's .global and .const variables, placed at the top of memory on first use."""
        if (kept := self._symbols.get(id(module))) is not None:
            return kept[1]
        made: dict[str, int] = {}
        self._symbols[id(module)] = module, made
        for v in module.variables:
            if v.space not in ("global", "const") or not v.bytes:
                continue
            self._top = (self._top - v.bytes) // max(v.align, 16) * max(v.align, 16) - 256
            if self._top < self.base + len(self.buffer) - self.TOP:
                raise ArgumentError(
                    f"module {module.name}: too many variables", given=v.name, expected=f"{self.TOP} bytes in all"
                )
            self.allocate(self._top, v.bytes)
            at = self._top - self.base
            self.buffer[at : at + v.bytes] = 0
            self.buffer[at : at + len(v.init)] = np.frombuffer(v.init, np.uint8)
            self.written(self._top, v.bytes)
            made[v.name] = self._top
        return made

    def bounds(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Starts and ends of all allocations, ascending; before them one that nothing is in."""
        if self._table is None:
            self._table = np.array([0, *self._starts], np.uint64), np.array([0, *self._ends], np.uint64)
        return self._table


class Global(Space):
    """Device memory as the CTAs of one launch see it.

    Within a cohort the last writer and the last reader of every granule are remembered; between CTAs, who wrote it in this
    launch, and which CTA read it or that several did. A CTA may touch what another one wrote only if it learnt of that
    through a strong access (`learn`).
    """

    name = "global"
    _STRONG, _SEVERAL = 1 << 62, (1 << 31) - 1

    def __init__(self, machine: Machine, order: Order, memory: DeviceMemory, granule: int) -> None:
        super().__init__(machine, memory.buffer, memory.initialised)
        self.memory, self.granule = memory, granule
        history = memory.history(granule)
        self.shadow = Shadow(order, history.written, history.read, per_agent=False)
        self._writer, self._reader = history.writer, history.reader
        self._launch = 0
        self._me = 0
        self._known: dict[int, set[int]] = {}
        self._published: dict[int, frozenset[int]] = {}

    def begin_launch(self) -> None:
        """Everything before is over for everybody."""
        self.memory.launches += 1
        self._launch = self.memory.launches << 32
        self._known.clear()
        self._published.clear()

    def begin_cohort(self, number: int) -> None:
        """CTAs that run together, by a number of their own; cohorts are told apart, not their CTAs."""
        self._me = number

    @property
    def has_published(self) -> bool:
        """Whether there is anything to learn."""
        return bool(self._published)

    def publish(self, address: int) -> None:
        """A strong write after a fence: who reads it strongly knows what this cohort knows."""
        self._published[address] = self._published.get(address, frozenset()) | {self._me} | self._known.get(self._me, set())

    def learn(self, address: int) -> None:
        """A strong read of what may have been published."""
        if found := self._published.get(address):
            self._known.setdefault(self._me, set()).update(found)

    def locate(self, actor: Gang | Engine, address: Addresses, size: int) -> NDArray[np.int64]:
        self._align(actor, address, size)
        starts, ends = self.memory.bounds()
        last = ends[np.searchsorted(starts, address, side="right") - 1]
        self._refuse(actor, address, np.asarray(last < address + np.uint64(size)), BoundsHazard,
                     lambda a: f"{size} bytes at global address {a:#x} lie outside every allocation{self.describe(a)}")  # fmt: skip
        return address.astype(np.int64) - self.memory.base

    def describe(self, address: int) -> str:
        starts, ends = self.memory.bounds()
        i = int(np.searchsorted(starts, np.uint64(address), side="right")) - 1
        return f"; {address - int(starts[i])} bytes into one of {int(ends[i] - starts[i])} bytes" if i > 0 else ""

    def _between_ctas(
        self, actor: Gang | Engine, address: Addresses, granules: NDArray[np.int64], per: int, write: bool, strong: bool
    ) -> None:
        me = self._launch + self._me + 1
        bad = self._foreign(self._writer[granules], me, strong)
        if write:
            bad |= self._foreign(self._reader[granules], me, strong)
            self._writer[granules] = me | (self._STRONG if strong else 0)
        else:
            before = self._reader[granules]
            mine = np.where((before > self._launch) & (before != me), self._launch + self._SEVERAL, me)
            if not strong:
                self._reader[granules] = mine
        if bad.any():
            self._refuse(actor, address, np.asarray(bad.reshape(-1, per).any(axis=1)), RaceHazard,
                         lambda a: f"a race between CTAs: {'write' if write else 'read'} of global address {a:#x}, which "
                                   f"another CTA {'accessed' if write else 'wrote'} in this launch")  # fmt: skip

    def _foreign(self, owner: NDArray[np.int64], me: int, strong: bool) -> NDArray[np.bool_]:
        plain = owner & ~np.int64(self._STRONG)
        bad = (plain > self._launch) & (plain != me)
        if strong:
            bad &= owner < self._STRONG
        if bad.any() and (known := self._known.get(self._me)):
            bad &= ~np.isin(plain, [self._launch + other + 1 for other in known])
        return bad
