"""Which gang goes next.

Seed 0 keeps threads together: of all that may run, those at the lowest instruction, so that divergent paths meet again.
Other seeds let warps run on their own, in orders that hardware allows and rarely shows. Asynchronous work completes when
nobody can go on without it; other seeds let it complete earlier now and then. Some chance in every seed lets those who spin
be overtaken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.gang import WARP, Gang
from treadle.codegen.ptxsim.hazards import DeadlockHazard

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.machine import Machine

READY, WAITING, EXITED = range(3)
_SPIN = 0.05  # how often the lowest instruction is passed over
_EARLY = 0.1  # how often asynchronous work completes before it must


class Scheduler:
    """Chooses among the gangs of a machine."""

    def __init__(self, machine: Machine) -> None:
        self._m = machine
        self._seed = 0
        self._version = -1

    def begin(self, seed: int) -> None:
        """A new cohort."""
        self._seed = seed
        self._random = np.random.default_rng(seed)
        self._version = self._m.version

    def alone(self, gang: Gang) -> bool:
        """Whether nobody else could run: then a gang need not stop where others might join it."""
        return gang.n == int(np.count_nonzero(self._m.state == READY))

    def permutation(self, n: int) -> NDArray[np.intp]:
        """An order in which threads that act at once are served."""
        return self._random.permutation(n) if self._seed else np.arange(n)

    def now_and_then(self, n: int) -> NDArray[np.bool_]:
        """For each of n threads whether what the ISA allows and is rare happens; never with seed 0."""
        return self._random.random(n) < _EARLY if self._seed else np.zeros(n, bool)

    def next(self) -> tuple[Gang, int] | None:
        """A gang and the instruction it stands at; None when all threads have left."""
        m = self._m
        while True:
            if m.deferred and self._seed and self._random.random() < _EARLY:
                self._complete(self._random.integers(len(m.deferred)))
            if m.version != self._version:
                self._version = m.version
                m.state[m.state == WAITING] = READY
            ready = np.flatnonzero(m.state == READY)
            if len(ready):
                return self._choose(ready)
            if not (m.state == WAITING).any():
                return None
            if not m.deferred:
                if any([relent() for relent in m.relents]):
                    m.changed()
                    continue
                raise self._stuck()
            self._complete(0 if not self._seed else self._random.integers(len(m.deferred)))

    def _complete(self, index: int | np.integer) -> None:
        self._m.deferred.pop(int(index)).complete()
        self._m.changed()

    def _choose(self, ready: NDArray[np.intp]) -> tuple[Gang, int]:
        pcs = self._m.pc[ready]
        lowest = int(pcs.min())
        if self._seed == 0:
            pc = lowest
            if self._random.random() < _SPIN and int(pcs.max()) != lowest:
                pc = int(self._random.choice(pcs))
            return Gang(ready[pcs == pc]), pc
        warp = ready // WARP
        leader = self._random.choice(warp)
        mine = pcs[warp == leader]
        pc = int(self._random.choice(mine)) if self._random.random() < _SPIN else int(mine.min())
        chosen = pcs == pc
        if self._seed % 2 or self._random.random() < 0.5:  # few warps, or the leader alone
            kept = self._random.random(self._m.warps) < (0.5 if self._seed % 2 else 0.0)
            kept[leader] = True
            chosen &= kept[warp]
        return Gang(ready[chosen]), pc

    def _stuck(self) -> DeadlockHazard:
        m = self._m
        waiting = np.flatnonzero(m.state == WAITING)
        lines = []
        where, counts = np.unique(m.pc[waiting], return_counts=True)
        for pc in where.tolist():
            threads = waiting[m.pc[waiting] == pc]
            instr = m.entry.body[pc]
            why = f": {m.explain[pc](threads)}" if pc in m.explain else ""
            warps = ", ".join(str(w) for w in np.unique(threads // WARP)[:16])
            lines.append(f"warps {warps} ({len(threads)} threads) wait at {instr.where}, {instr.name}{why}")
        first = int(waiting[m.pc[waiting] == where[counts.argmax()]][0])  # where most wait, the cause is nearest
        return DeadlockHazard("nobody can go on: " + "; ".join(lines), place=m.place(first, int(m.pc[first])))
