"""Which machine the figures of a run belong to."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from gpu import clocks
from treadle.runtime.cuda import find_device
from treadle.runtime.devices import cuda_index

_PACKAGES = ("treadle", "torch", "apache-tvm-ffi", "numpy")


def describe(device: str) -> dict[str, Any]:
    """The device, its software and the date."""
    found: dict[str, Any] = {"device": device, "name": platform.processor() or platform.machine()}
    index = cuda_index(device)
    if index is not None:
        card, p = find_device(index), torch.cuda.get_device_properties(index)
        found |= {
            "name": card.name, "capability": list(card.capability), "driver": _driver(), "cuda_driver": card.driver,
            "cuda_runtime": card.runtime, "multiprocessors": p.multi_processor_count, "l2_bytes": p.L2_cache_size,
            "memory_bytes": p.total_memory, "idle": clocks.sample(str(p.uuid)),
        }  # fmt: skip
    return {
        **found,
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version(), **{p: v for p in _PACKAGES if (v := _version(p))}},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    """The driver's own version, which CUDA does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None
