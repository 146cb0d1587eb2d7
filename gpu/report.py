"""What a run leaves: one JSON file, and a table short enough for the end of a terminal's output."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from treadle.runtime.cuda import find_device
from treadle.runtime.devices import cuda_index

Row = dict[str, Any]
_PACKAGES = ("treadle", "torch", "triton", "apache-tvm-ffi", "numpy")


def describe(device: str) -> Row:
    """The device, its software, the date and the command that the figures belong to."""
    facts: Row = {"device": device, "name": platform.processor() or platform.machine()}
    index = cuda_index(device)
    if index is not None:
        found = find_device(index)
        p = torch.cuda.get_device_properties(index)
        facts |= {
            "name": found.name, "capability": list(found.capability), "driver": _driver(), "cuda_driver": found.driver,
            "cuda_runtime": found.runtime, "multiprocessors": p.multi_processor_count, "l2_bytes": p.L2_cache_size,
            "memory_bytes": p.total_memory,
        }  # fmt: skip
    return {
        **facts,
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version(), **{p: v for p in _PACKAGES if (v := _version(p))}},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv[1:],
    }


def checked_lines(title: str, rows: Sequence[Row]) -> list[str]:
    """A line of totals, then a line for each mismatch."""
    wrong = [r for r in rows if not r["ok"]]
    worst = max((r["error"] / r["bound"] for r in rows if r.get("bound")), default=0.0)
    lines = [f"{title}: {len(rows)} results, {len(wrong)} mismatches, worst error {worst:.2f} of its bound"]
    for r in wrong[:20]:
        lines.append(f"  {r['program']} {r['dtype']} {_plain(r.get('attrs', {}))} at {_plain(r['sizes'])}: {r['why'][:200]}")
    return lines + ([f"  and {len(wrong) - 20} more"] if len(wrong) > 20 else [])


def timed_lines(rows: Sequence[Row], ceilings: Row) -> list[str]:
    """Per kernel: time, bytes and operations per second, and each as a share of torch's copy and product."""
    copy = ceilings["copy_bytes_per_second"]
    lines = [f"copy {copy / 1e9:.0f} GB/s; product " + ", ".join(
        f"{kind} {rate / 1e12:.1f} TFLOP/s" for kind, rate in ceilings["matmul_flops_per_second"].items()
    )]  # fmt: skip
    lines.append(f"{'kernel':<44}{'dtype':<10}{'us':>9}{'p90':>9}{'GB/s':>8}{'copy':>6}{'TF/s':>8}{'mm':>6}")
    for r in rows:
        median, p90 = r["seconds"]["median"], r["seconds"]["p90"]
        line = f"{r['program'] + ' ' + _plain(r.get('attrs', {})):<44.43}{r['dtype']:<10}{median * 1e6:>9.1f}{p90 * 1e6:>9.1f}"
        if "bytes_per_second" in r:
            bytes_, flops = r["bytes_per_second"], r["flops_per_second"]
            product = ceilings["matmul_flops_per_second"][r["dtype"]]
            line += f"{bytes_ / 1e9:>8.0f}{bytes_ / copy:>6.0%}{flops / 1e12:>8.2f}{flops / product:>6.0%}"
        lines.append(line)
    return lines


def _plain(values: Row) -> str:
    return " ".join(f"{n}={v}" for n, v in values.items())


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
