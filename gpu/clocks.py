"""What the card does while it is measured: clocks, temperature, power, read from NVML. Nothing is ever set."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache

_SM, _MEMORY = 1, 2  # nvmlClockType_t
Sample = dict[str, int]


def sample(uuid: str) -> Sample | None:
    """MHz, degrees and watts now, of the card with this UUID; None where NVML is missing or will not say."""
    nvml = _nvml()
    card = ctypes.c_void_p()
    if nvml is None or nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}".encode(), ctypes.byref(card)):
        return None

    def ask(function: Callable[..., int], *args: object) -> int:
        value = ctypes.c_uint()
        return -1 if function(card, *args, ctypes.byref(value)) else value.value

    return {
        "sm_mhz": ask(nvml.nvmlDeviceGetClockInfo, _SM), "memory_mhz": ask(nvml.nvmlDeviceGetClockInfo, _MEMORY),
        "celsius": ask(nvml.nvmlDeviceGetTemperature, 0), "watts": ask(nvml.nvmlDeviceGetPowerUsage) // 1000,
    }  # fmt: skip


def span(samples: Sequence[Sample | None]) -> dict[str, list[int]] | None:
    """The least and the largest of each reading."""
    found = [s for s in samples if s]
    return {name: [min(s[name] for s in found), max(s[name] for s in found)] for name in found[0]} if found else None


@cache
def _nvml() -> ctypes.CDLL | None:
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return None if nvml.nvmlInit_v2() else nvml
