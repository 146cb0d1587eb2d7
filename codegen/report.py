"""What is known about each kernel before it has run: `reports/<arch>.json`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

from treadle.codegen.cuda_source import Kernel
from treadle.codegen.lower import Lowered
from treadle.codegen.occupancy import occupancy
from treadle.codegen.ptxas import Usage, waiver
from treadle.dtypes import dtype as find_dtype
from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.graph import Graph
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
    for t, times in program.moved:
        total = reduce(lambda a, s: s * a, t.shape, times * find_dtype(str(t.dtype)).itemsize) + total
    return {"bytes": _size(total), "flops": _size(program.flops), "exps": _size(program.exps)}


def _size(size: dm.Size) -> str:
    return dm.text(dm.simplify(size))


@dataclass(frozen=True)
class Predicted:
    """All calls of a kernel in one call of a Graph: what its functions take at most, and the time none of this can beat."""

    kernel: str
    calls: int
    registers: int
    shared: int
    spills: int
    seconds: float
    by: str


def predict(graph: Graph, told: Mapping[str, Any], sizes: Mapping[str, int]) -> list[Predicted]:
    """A row per kernel, the slowest first, from an architecture's report and the sizes of a call.

    The floor of a call is the larger of its compulsory bytes over the device's bandwidth and its flops over the device's
    rate: that of tensor cores for 16-bit programs, of float32 otherwise. Launches and exponentials come on top.
    """
    functions, calls = defaultdict(list), defaultdict(list)
    for row in told["kernels"]:
        functions[row["kernel"]].append(row)
    device, programs = told["device"], {}
    for node in graph.nodes:
        p = programs[node.program.symbol] = node.program
        cost = p.cost({n: dm.evaluate(s, sizes) for n, s in node.sizes.items()})
        rate = device["fp32_tflops" if p.dtype == "float32" else "bf16_tflops"] * 1e12
        times = {"bytes": cost.bytes / (device["bandwidth_gbs"] * 1e9), "flops": cost.flops / rate}
        by = max(times, key=times.__getitem__)
        calls[p.symbol].append((times[by], by))
    made = []
    for symbol, p in programs.items():
        rows, floors = functions[symbol], calls[symbol]
        made.append(
            Predicted(
                _label(p), len(floors), max(r["registers"] for r in rows),
                max(r["static_shared"] + (r["dynamic_shared"] or 0) for r in rows),
                sum(r["spill_stores"] + r["spill_loads"] for r in rows), sum(t for t, _ in floors), max(floors)[1],
            )
        )  # fmt: skip
    return sorted(made, key=lambda m: -m.seconds)


def _label(p: Program) -> str:
    """A Program among others of its name: what its attributes and bound sizes are, where they are not the defaults."""
    attrs = [str(v) if isinstance(v, str) else f"{n}={v}" for n, v in p.attrs.items() if v != p.definition.attrs[n].default]
    return " ".join([p.name, *attrs, *(f"{n}={v}" for n, v in p.bound.items())])
