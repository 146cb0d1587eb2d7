"""Special registers: who a thread is, and where its CTA lies in the grid and in its cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.gang import WARP

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.machine import Machine

_AXES = "xyz"


def registers(m: Machine) -> dict[str, NDArray[Any]]:
    """Every special register that does not count time, as an array over threads or one value for all."""
    thread = np.arange(m.threads)
    within, rank = thread % m.cta_stride, thread // m.cta_stride
    lane = within % WARP
    made: dict[str, NDArray[Any]] = {}

    def put(name: str, value: Any, wide: type = np.uint32) -> None:
        made[f"%{name}"] = np.asarray(value).astype(wide)

    def put_axes(name: str, values: Any) -> None:
        for axis, value in zip(_AXES, values, strict=True):
            put(f"{name}.{axis}", value)

    put_axes("tid", _split(within, m.block))
    put_axes("ntid", m.block)
    put_axes("nctaid", m.grid)
    put_axes("cluster_nctaid", m.cluster)
    put_axes("nclusterid", clusters(m))
    put_axes("cluster_ctaid", _split(rank, m.cluster))
    put("cluster_ctarank", rank)
    put("cluster_nctarank", m.ctas)
    put_axes("ctaid", [np.zeros(m.threads)] * 3)  # of each cohort, by `enter`
    put_axes("clusterid", [np.zeros(m.threads)] * 3)
    put("laneid", lane)
    put("warpid", within // WARP)
    put("nwarpid", m.cta_stride // WARP)
    put("smid", 0)
    put("nsmid", 132)
    put("gridid", 0, np.uint64)
    bit = np.uint64(1) << lane.astype(np.uint64)
    put("lanemask_eq", bit)
    put("lanemask_lt", bit - np.uint64(1))
    put("lanemask_le", (bit << np.uint64(1)) - np.uint64(1))
    put("lanemask_gt", ~((bit << np.uint64(1)) - np.uint64(1)) & np.uint64(0xFFFFFFFF))
    put("lanemask_ge", ~(bit - np.uint64(1)) & np.uint64(0xFFFFFFFF))
    put("dynamic_smem_size", m.dynamic_shared)
    put("total_smem_size", m.layout.static_shared + m.dynamic_shared)
    made["%is_explicit_cluster"] = np.array(m.ctas > 1)
    return made


def clusters(m: Machine) -> tuple[int, ...]:
    """How many clusters the grid has along each axis."""
    return tuple(g // c for g, c in zip(m.grid, m.cluster, strict=True))


def enter(m: Machine, number: int) -> None:
    """The cohort of that number takes its places in the grid."""
    where = _split(np.array(number), clusters(m))
    for axis, at, size in zip(_AXES, where, m.cluster, strict=True):
        m.specials[f"%clusterid.{axis}"][:] = at
        m.specials[f"%ctaid.{axis}"][:] = at * size + m.specials[f"%cluster_ctaid.{axis}"]


def cta_index(m: Machine, rank: int) -> tuple[int, int, int]:
    """blockIdx of a CTA of the cohort that is running."""
    x, y, z = (int(m.specials[f"%ctaid.{axis}"][rank * m.cta_stride]) for axis in _AXES)
    return x, y, z


def _split(index: NDArray[Any], dims: tuple[int, ...]) -> tuple[NDArray[Any], ...]:
    return index % dims[0], index // dims[0] % dims[1], index // (dims[0] * dims[1])
