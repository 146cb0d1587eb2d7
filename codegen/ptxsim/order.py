"""Who may know of what: vector clocks, and the shadow memory that tells an ordered access from a race.

Agents are the warps of a cohort, and engines: one for each asynchronous operation or group under way. Every agent counts its own
intervals; `seen[a, b]` is the last interval of b that a knows to be over. Barriers, mbarriers, and fences with strong
accesses pass knowledge on. A shadow keeps, for every granule of memory, who wrote last and who read since, each with
interval and lane; an access races with an earlier one that its agent has not seen (FastTrack, Flanagan and Freund 2009).
Lanes of one warp are ordered by bar.warp.sync and by barriers, not by standing in the same warp.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_CLOCK, _LANE = 32, 8  # bits; a stamp is strong | agent+1 | lane | clock
_AGENT = _CLOCK + _LANE
_CLOCKS, _AGENTS = (1 << _CLOCK) - 1, (1 << 20) - 1
_STRONG = 1 << 62
_NONE = np.zeros(1, np.int64)  # no race, whatever the shape
ENGINE_LANE = 32  # of asynchronous agents, which have no lanes
SEVERAL = 33  # lanes that read in one interval


class Order:
    """The clocks of a cohort of `warps` warps."""

    def __init__(self, warps: int) -> None:
        self.warps = warps
        self.seen = np.zeros((warps + 16,) * 2, np.int64)
        self.begin(0)

    @property
    def latest(self) -> int:
        """No clock is above it."""
        return int(self.seen.max())

    def begin(self, past: int) -> None:
        """A new cohort, its clocks above all earlier ones: shadows need not be cleared, everybody has seen the past."""
        self.agents = self.warps
        self._past = past
        self.seen[:] = past
        self._fenced = self.seen.copy()  # what an agent knew at its last memory fence
        self._proxied = self.seen.copy()  # ... at its last proxy fence
        self.has_fenced = np.zeros(len(self.seen), bool)
        self.seen[np.diag_indices(self.warps)] += 1

    def new_agent(self) -> int:
        """An asynchronous engine's agent."""
        if self.agents == len(self.seen):
            wider = ((0, len(self.seen)),) * 2
            self.seen, self._fenced, self._proxied = (
                np.pad(a, wider, constant_values=self._past) for a in (self.seen, self._fenced, self._proxied)
            )
            self.has_fenced = np.pad(self.has_fenced, wider[0])
        self.agents += 1
        self.seen[self.agents - 1, self.agents - 1] += 1
        return self.agents - 1

    def tick(self, agents: Ints | int) -> None:
        """A new interval of each begins."""
        self.seen[agents, agents] += 1

    def release(self, agents: Ints | int) -> Ints:
        """What the agents know together, to be handed on; what they do later is not in it."""
        known = self.seen[agents].max(axis=0) if np.ndim(agents) else self.seen[agents].copy()
        self.tick(agents)
        return known

    def acquire(self, agents: Ints | int, known: Ints) -> None:
        """The agents learn what somebody released."""
        if len(known) < len(self.seen):
            known = np.pad(known, (0, len(self.seen) - len(known)), constant_values=self._past)
        self.seen[agents] = np.maximum(self.seen[agents], known)

    def meet(self, agents: Ints) -> None:
        """A barrier: each learns what all know."""
        self.acquire(agents, self.release(agents))

    def fence(self, agents: Ints) -> None:
        """membar, fence: strong writes from here on publish what is known now."""
        self._fenced[agents] = self.seen[agents]
        self.has_fenced[agents] = True
        self.tick(agents)

    def fenced(self, agent: int) -> Ints:
        """What a strong write of the agent publishes."""
        return self._fenced[agent]

    def proxy_fence(self, agents: Ints) -> None:
        """fence.proxy.async: what is known now is visible to asynchronous engines."""
        self._proxied[agents] = self.seen[agents]
        self.tick(agents)

    def crossed(self, issuer: int, writers: Ints, clocks: Ints, fencers: Ints | None = None) -> NDArray[np.bool_]:
        """Whether writes are visible to an engine that the issuer starts: its fence or the writer's lies between.

        `fencers`: the warps that fence for the writers, where those are not warps themselves.
        """
        fencers = writers if fencers is None else fencers
        return (clocks <= self._proxied[fencers, writers]) | (clocks <= self._proxied[issuer, writers])

    def follow(self, agent: int, warps: Ints | int) -> None:
        """An agent starts anew, from what each of the warps knows."""
        own = self.seen[agent, agent] + 1
        self.seen[agent] = self.seen[warps].min(axis=0) if np.ndim(warps) else self.seen[warps]
        self.seen[agent, agent] = own


def written_by(stamps: Ints) -> tuple[Ints, Ints]:
    """Agents and clocks of many stamps; agent -1: nobody."""
    return _agent(stamps), stamps & _CLOCKS


class Shadow:
    """The accesses to some granules. `per_agent`: `read` has a row for each agent, else one for whoever was the last."""

    def __init__(self, order: Order, written: Ints, read: Ints, per_agent: bool = True) -> None:
        self.order = order
        self.written, self.read = written, read
        self._per_agent = per_agent

    def note_read(self, at: Ints, agent: Ints, lane: Ints, strong: bool = False) -> Ints:
        """Reads, one per element of `at`. Returns the stamps of writes that they race with, 0 where there is none."""
        races = self._racing(self.written[at], agent, lane, strong)
        clock = self.order.seen[agent, agent]
        row = agent if self._per_agent else np.zeros_like(agent)
        if self._per_agent and (most := int(agent.max())) >= len(self.read):
            self.read = np.pad(self.read, ((0, most + 1 - len(self.read)), (0, 0)))
        before = self.read[row, at]
        stamp = _stamp(agent, lane, clock, strong)
        # Another lane, earlier in the same interval or in this very instruction: a later write must meet both.
        self.read[row, at] = stamp
        kept = self.read[row, at]
        several = ((before & _CLOCKS) == clock) & (_agent(before) == agent) & (_lane(before) != lane) | (_lane(kept) != lane)
        if several.any():
            self.read[row[several], at[several]] = _stamp(agent[several], SEVERAL, clock[several], strong)
        return races

    def note_write(self, at: Ints, agent: Ints, lane: Ints, strong: bool = False) -> Ints:
        """Writes. Returns the stamps of accesses that they race with."""
        races = self._racing(self.written[at], agent, lane, strong)
        reads = self._racing(self.read[:, at], agent, lane, strong)
        if reads is not _NONE:
            races = np.maximum(races, reads.max(axis=0))
        stamp = _stamp(agent, lane, self.order.seen[agent, agent], strong)
        self.written[at] = stamp
        if not strong:  # two lanes of this very instruction: neither is the one whose value stays
            kept = self.written[at]
            if (lost := kept != stamp).any():
                races = np.maximum(races, np.where(lost, kept, 0))
        return races

    def _racing(self, stamps: Ints, agent: Ints, lane: Ints, strong: bool) -> Ints:
        other = (stamps >> _AGENT & _AGENTS) - 1
        clock = stamps & _CLOCKS
        # Of nobody (-1): whatever, for 0 is below every clock. So is the stamp of an agent that only an earlier, larger cohort had.
        seen = self.order.seen[agent, np.minimum(other, len(self.order.seen) - 1)]
        bad = clock >= seen
        if not bad.any():
            return _NONE
        bad &= np.where(other == agent, _lane(stamps) != lane, clock > seen) & (stamps != 0)
        if strong:
            bad &= stamps < _STRONG
        return np.where(bad, stamps, 0)


def _stamp(agent: Ints, lane: Ints | int, clock: Ints, strong: bool) -> Ints:
    return ((agent + 1) << _AGENT) | (np.asarray(lane, np.int64) << _CLOCK) | clock | (_STRONG if strong else 0)


def _agent(stamp: Ints) -> Ints:
    return (stamp >> _AGENT & _AGENTS) - 1


def _lane(stamp: Ints) -> Ints:
    return (stamp >> _CLOCK) & ((1 << _LANE) - 1)


def unpack(stamp: int) -> tuple[int, int, int]:
    """Agent, lane and clock of one stamp."""
    one = np.array([stamp])
    return int(_agent(one)[0]), int(_lane(one)[0]), stamp & _CLOCKS
