"""Bulk copies under way: those that report to mbarriers, and the groups of those that their thread waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.engines import Engines
from treadle.codegen.ptxsim.gang import WARP, Gang
from treadle.codegen.ptxsim.hazards import PendingHazard
from treadle.codegen.ptxsim.mbarriers import Mbarrier, Mbarriers
from treadle.codegen.ptxsim.memory import Engine, Space
from treadle.codegen.ptxsim.order import Ints

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.machine import Machine


@dataclass
class Write:
    """Bytes that are to land: elements [n, 1] at offsets that were claimed. `combine`: what a reduction makes of old and new."""

    space: Space
    offsets: NDArray[np.int64]
    values: NDArray[Any]
    combine: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]] | None = None

    def land(self) -> None:
        """Let them be seen."""
        values = self.values
        if self.combine is not None:
            old = self.space.fetch(self.offsets, values.dtype.itemsize, 1)
            values = self.combine(old, values)
        self.space.put(self.offsets, values)


@dataclass(eq=False)
class Load:
    """A copy into shared memory: on its end each write lands and its mbarrier counts the bytes."""

    m: Machine
    engine: Engine
    parts: list[tuple[Write, Mbarrier, int]]

    def complete(self) -> None:
        if not self.m.alive().any():
            raise self.m.hazard(
                PendingHazard, "the kernel ends while this copy into its shared memory is under way", self.engine, 0
            )
        known = self.m.part(Engines).finished(self.engine.agent)
        for write, barrier, count in self.parts:
            write.land()
            barrier.add(known)
            self.m.part(Mbarriers).complete(barrier, self.engine, 0, count)


@dataclass(eq=False)
class Store:
    """A copy out of shared memory, of a group."""

    writes: list[Write]
    done: bool = False

    def complete(self) -> None:
        if not self.done:
            self.done = True
            for write in self.writes:
                write.land()


@dataclass
class Group:
    """What a thread has issued up to a commit. Reading its sources and writing are waited for apart, so agents are two."""

    reader: Engine
    writer: Engine
    stores: list[Store] = field(default_factory=list)
    read: bool = False


class BulkGroups:
    """The bulk groups of every thread, oldest first."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        m.resets.append(self.reset)
        m.checks_at_exit.append(self._left_behind)
        self.reset()

    def reset(self) -> None:
        """A new cohort."""
        self.open: dict[int, Group] = {}
        self.closed: dict[int, list[Group]] = {}

    def group(self, gang: Gang, index: int) -> Group:
        """The group that a thread is filling, its agents knowing what its warp knows now."""
        engines, order = self.m.part(Engines), self.m.order
        thread = int(gang.threads[index])
        if (found := self.open.get(thread)) is None:
            found = self.open[thread] = Group(engines.engine(gang, index), engines.engine(gang, index))
        else:
            for engine in (found.reader, found.writer):
                order.acquire(engine.agent, order.seen[thread // WARP])
        return found

    def add(self, group: Group, store: Store) -> None:
        """One more copy."""
        group.stores.append(store)
        self.m.defer(store)

    def commit(self, thread: int) -> None:
        """The group is closed; an empty one is over at once."""
        if (group := self.open.pop(thread, None)) is not None:
            self.closed.setdefault(thread, []).append(group)

    def wait(self, thread: int, left: int, read_only: bool) -> None:
        """All but the newest `left` groups are over, or at least have read."""
        groups = self.closed.get(thread, [])
        over = groups[: max(0, len(groups) - left)]
        engines = self.m.part(Engines)
        for group in over:
            if not group.read:
                group.read = True
                self._learn(thread, engines.finished(group.reader.agent))
            if not read_only:
                for store in group.stores:
                    if store in self.m.deferred:
                        self.m.deferred.remove(store)
                    store.complete()
                self._learn(thread, engines.finished(group.writer.agent))
        if not read_only:
            self.closed[thread] = groups[len(over) :]

    def _learn(self, thread: int, known: Ints) -> None:
        self.m.order.acquire(thread // WARP, known)

    def _left_behind(self) -> None:
        for group in (*self.open.values(), *(g for groups in self.closed.values() for g in groups)):
            if not group.read:
                raise self.m.hazard(
                    PendingHazard, "the kernel ends while this copy may still read its shared memory: no wait_group before", group.reader, 0
                )  # fmt: skip
