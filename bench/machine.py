"""The machine and the software that a figure belongs to."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("treadle", "apache-tvm", "apache-tvm-ffi", "numpy", "torch")


def describe() -> dict[str, Any]:
    """Processor, cores, cache, date and versions."""
    return {
        "machine": {
            "cpu": _model(),
            "cores": len(os.sched_getaffinity(0)),
            "last_level_cache": last_level_cache(),
            "system": f"{platform.system()} {platform.release()}",
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in _PACKAGES}},
    }


def last_level_cache() -> int:
    """Bytes of the largest cache; 64 MiB where the system tells none."""
    found = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        found.append(int(text.rstrip("KM")) * {"K": 1 << 10, "M": 1 << 20}.get(text[-1], 1))
    return max(found, default=64 << 20)


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.replace("\t", "").split(": ", 1) for line in lines if ": " in line)
    return f"{fields.get('model name', platform.machine())} (family {fields.get('cpu family')}, model {fields.get('model')})"
