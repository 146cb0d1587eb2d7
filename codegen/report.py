"""What is known about each kernel before it has run: `reports/<arch>.json`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from typing import Any

from treadle.codegen.cuda_source import Kernel
from treadle.codegen.lower import Lowered
from treadle.codegen.occupancy import occupancy
from treadle.codegen.ptxas import Usage, waiver
from treadle.dtypes import dtype as find_dtype
from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.schedules.target import Gpu


def describe(k: Lowered) -> dict[str, Any]:
    """A kernel's origin: which Program at which sizes, mapped how."""
    p = k.program
    return {
        "kernel": k.symbol, "program": p.name, "dtype": p.dtype, "attrs": dict(p.attrs), "dims": dict(p.bound),
        "schedule": k.schedule, "point": asdict(k.point),
    }  # fmt: skip


def text(gpu: Gpu, kernels: Sequence[Kernel], usage: Mapping[str, Usage], waive: Collection[str] = ()) -> str:
    """One architecture's report: the device that floors are stated for, and a row per `__global__` function."""
    device = {
        "name": gpu.device, "sms": gpu.sms, "bandwidth_gbs": gpu.bandwidth, "bf16_tflops": gpu.bf16_tflops,
        "fp32_tflops": gpu.fp32_tflops,
    }  # fmt: skip
    rows = [_row(gpu, k, usage[k.name], waive) for k in kernels]
    return json.dumps({"schema": 1, "arch": gpu.arch, "device": device, "kernels": rows}, indent=1, sort_keys=True) + "\n"


def _row(gpu: Gpu, k: Kernel, used: Usage, waive: Collection[str]) -> dict[str, Any]:
    fits = None
    if k.threads is not None and k.dynamic_shared is not None:
        fits = asdict(occupancy(gpu, k.threads, used.registers, used.static_shared + k.dynamic_shared))
    return {
        "function": k.name, **describe(k.of), **asdict(used), "threads": k.threads, "dynamic_shared": k.dynamic_shared,
        "occupancy": fits, "waived": waiver(k, waive) if used.spills else None, "floor": floor(k.of.program),
    }  # fmt: skip


def floor(program: Program) -> dict[str, str]:
    """The floor of one call of the Program as size expressions: what the device's figures are to be divided into."""
    total: dm.Size = 0
    for t in (*program.args, *program.results):
        total = reduce(lambda a, s: s * a, t.shape, find_dtype(str(t.dtype)).itemsize) + total
    return {"bytes": _size(total), "flops": _size(program.flops), "exps": _size(program.exps)}


def _size(size: dm.Size) -> str:
    return dm.text(dm.simplify(size))
