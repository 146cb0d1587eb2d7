"""What this CPU can do, in the words of /proc/cpuinfo, which manifests use too."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def cpu_features() -> frozenset[str]:
    """The feature flags all CPUs of this machine have; empty where the kernel tells none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    # "flags" on x86, "Features" on Arm; one line per CPU, and big.LITTLE cores may differ.
    found = [frozenset(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))]
    return frozenset.intersection(*found) if found else frozenset()
