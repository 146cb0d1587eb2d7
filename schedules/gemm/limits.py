"""What an architecture gives a thread block, and the sentences that say where a point asks for more."""

from __future__ import annotations

from typing import Protocol

from treadle.schedules.target import Target

#: Registers that one thread can address.
MAX_REGISTERS = 255


class Needs(Protocol):
    """A point that knows what its block takes: threads, registers a thread, bytes of shared memory."""

    @property
    def threads(self) -> int: ...
    @property
    def registers(self) -> int: ...
    @property
    def shared_bytes(self) -> int: ...


def over(point: Needs, target: Target) -> list[str]:
    """A sentence per limit of each architecture that the point goes over."""
    reasons = []
    for gpu in target.gpus:
        most = min(MAX_REGISTERS, gpu.registers // max(point.threads, 1))
        if point.registers > most:
            reasons.append(f"{point.registers} registers a thread; {gpu.arch} gives a block of {point.threads} threads {most}")
        if point.shared_bytes > gpu.shared_bytes:
            reasons.append(
                f"{point.shared_bytes >> 10} KiB of shared memory; a block on {gpu.arch} has {gpu.shared_bytes >> 10}"
            )
    return reasons
