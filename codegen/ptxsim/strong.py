"""What strong accesses hand on: knowledge of a fence, from who writes to who reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.memory import Space

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.machine import Machine

Array = NDArray[Any]


def publish(m: Machine, where: Space, gang: Gang, address: Array, releases: bool, update: bool) -> None:
    """A strong write hands on what its warp knew at its last fence; a release is a fence itself."""
    if releases:
        m.order.fence(gang.warps)
    agents = gang.warp_of
    if not m.order.has_fenced[agents].any():
        return
    for at, agent in zip(address.tolist(), agents.tolist(), strict=True):
        if m.order.has_fenced[agent]:
            known = m.order.fenced(agent)
            before = m.published.get((where.name, at)) if update else None
            if before is not None:
                known = np.maximum(known, np.pad(before, (0, len(known) - len(before))))
            m.published[where.name, at] = known.copy()
            if where is m.global_:
                m.global_.publish(at)


def learn(m: Machine, where: Space, gang: Gang, address: Array) -> None:
    """A strong read learns what was published there."""
    if where is m.global_ and m.global_.has_published:
        for at in set(address.tolist()):
            m.global_.learn(at)
    if not m.published:
        return
    for at, agent in set(zip(address.tolist(), gang.warp_of.tolist(), strict=True)):
        if (known := m.published.get((where.name, at))) is not None:
            m.order.acquire(agent, known)
