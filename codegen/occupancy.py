"""How many blocks of a kernel share a multiprocessor, and what keeps another one out.

The rules are those of NVIDIA's cuda_occupancy.h. Its limits are the same for all architectures in `schedules.target`,
except shared memory and registers, which are facts of the Gpu.
"""

from __future__ import annotations

from dataclasses import dataclass

from treadle.schedules.target import Gpu

WARP, MAX_WARPS, MAX_BLOCKS, PARTITIONS = 32, 64, 32, 4
_REGISTERS_STEP = 256  # a warp's registers are given out in pieces of this many
_SHARED_STEP = 128
_SHARED_RESERVED = 1024  # taken by the system from every block


@dataclass(frozen=True)
class Occupancy:
    blocks: int
    warps: int
    share: float
    limited_by: str


def occupancy(gpu: Gpu, threads: int, registers: int, shared: int) -> Occupancy:
    """`registers` per thread and `shared` bytes per block, static and dynamic together."""
    warps = -(-threads // WARP)
    per_warp = _up(max(registers, 1) * WARP, _REGISTERS_STEP)
    # A block asks for at most gpu.shared_bytes; the multiprocessor has what one such block takes.
    limits = {
        "blocks": MAX_BLOCKS,
        "warps": MAX_WARPS // warps,
        "registers": gpu.registers // PARTITIONS // per_warp * PARTITIONS // warps,
        "shared memory": (gpu.shared_bytes + _SHARED_RESERVED) // _up(shared + _SHARED_RESERVED, _SHARED_STEP),
    }
    why = min(limits, key=limits.__getitem__)
    blocks = limits[why]
    return Occupancy(blocks, blocks * warps, round(blocks * warps / MAX_WARPS, 4), why)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
