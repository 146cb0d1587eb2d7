"""The PTX machine's speed: thread-instructions per second by kind of kernel, and the seconds of two kernels of real size."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import ml_dtypes
import numpy as np
import torch

from treadle.api import compile
from treadle.bench.report import Column, Report
from treadle.codegen import nvcc, ptxsim
from treadle.ir.oracles.scan.gspn import oracle
from treadle.kernel import Kernel

SOURCE = Path(__file__).with_name("kernels.cu")
ROUNDS = 3
ELEMENTS = 1 << 20
SHUFFLED, REPEATS = 1 << 14, 64
SIDE = 256  # of the GEMM's matrices
SCAN = (2, 4, 64, 64)

LAYOUT = (
    Column("kernel", "kernel"),
    Column("size", "size"),
    Column(">thread-instructions", "instructions", "{:,}".format),
    Column(">processes", "processes"),
    Column(">s", "seconds", "{:.2f}".format),
    Column(">million/s", "per_second", lambda v: f"{v / 1e6:.1f}"),
    Column(">error", "error", "{:.1e}".format),
)


@dataclass(frozen=True)
class Timed:
    """A kernel, how to launch it, and what must come out."""

    kernel: str
    size: str
    grid: tuple[int, ...]
    block: int
    args: tuple[Any, ...]  # arrays of the host among them; the last array is the result
    expected: np.ndarray


def measure(target: str, progress: Callable[[str], None]) -> Report:
    """Each kernel by one process and by as many as there are cores."""
    progress("compiling the kernels")
    module = ptxsim.load(_ptx(), SOURCE.stem)
    cores = len(os.sched_getaffinity(0))
    rows = []
    for timed in _kernels():
        for jobs in sorted({1, cores}):
            progress(f"timing {timed.kernel}, {jobs} process{'es' if jobs > 1 else ''}")
            rows.append(_row(module, timed, jobs))
    progress("timing scan.gspn")
    rows.append(_scan(cores))
    method = f"median of {ROUNDS} launches after one that is not timed; of scan.gspn, the whole call through the CUDA stand-in"
    return Report(
        "ptx", "the PTX machine, seed 0", LAYOUT, rows, method, remarks=("error: the largest, relative to the result",)
    )


def _ptx() -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernels.ptx"
        flags = ("-ptx", "-lineinfo", "-std=c++17", "-gencode=arch=compute_90a,code=compute_90a")
        subprocess.run([nvcc.find().path, *flags, SOURCE, "-o", out], check=True, env=nvcc.environment())
        return out.read_text()


def _kernels() -> Iterator[Timed]:
    random = np.random.default_rng(0)
    x, y = (random.normal(size=ELEMENTS).astype(np.float32) for _ in range(2))
    yield Timed("elementwise", f"{ELEMENTS:,}", (128,), 256, (np.float32(2), x, y, np.int32(ELEMENTS)), 2 * x + y)
    x = random.normal(size=SHUFFLED).astype(np.float32)
    args = (x, np.empty_like(x), np.int32(REPEATS))
    means = np.repeat(x.reshape(-1, 32).mean(1), 32)
    yield Timed("shuffles", f"{SHUFFLED:,} x {REPEATS}", (SHUFFLED // 256,), 256, args, means)
    a, b = (random.normal(size=(SIDE, SIDE)).astype(ml_dtypes.bfloat16) for _ in range(2))
    args = (a, b, np.empty((SIDE, SIDE), np.float32), np.int32(SIDE), np.int32(SIDE))
    tiles = SIDE // 64
    yield Timed("wgmma GEMM", f"{SIDE}^3 bf16", (tiles, tiles), 128, args, a.astype(np.float32) @ b.astype(np.float32).T)


def _row(module: Any, timed: Timed, jobs: int) -> dict[str, Any]:
    device = ptxsim.Device(jobs=jobs)
    entry = "gemm" if timed.kernel == "wgmma GEMM" else timed.kernel
    args = [device.array(a) if isinstance(a, np.ndarray) else a for a in timed.args]
    result = [(held, a) for held, a in zip(args, timed.args, strict=True) if isinstance(a, np.ndarray)][-1]
    seconds = []
    for _ in range(1 + ROUNDS):
        result[0].set(result[1])
        started = perf_counter()
        instructions = device.launch(module, entry, timed.grid, (timed.block,), args)
        seconds.append(perf_counter() - started)
    took = median(seconds[1:])
    return {
        "kernel": timed.kernel,
        "size": timed.size,
        "instructions": instructions,
        "processes": jobs,
        "seconds": took,
        "per_second": instructions / took,
        "error": _error(result[0].numpy(), timed.expected),
    }


def _scan(jobs: int) -> dict[str, Any]:
    """scan.gspn in float32, downwards: the CUDA library of its bundle, host code included."""
    n, c, h, w = SCAN
    generator = torch.Generator().manual_seed(0)
    x, lam = (torch.randn(n, c, h, w, generator=generator) for _ in range(2))
    gates = torch.rand(n, 3, c, h, w, generator=generator) / 3
    os.environ["TREADLE_PTX_JOBS"] = str(jobs)
    kernel = compile("scan.gspn", "ptx:sm_90a")
    assert isinstance(kernel, Kernel)
    seconds = []
    for _ in range(1 + ROUNDS):
        started = perf_counter()
        got = kernel(x, lam, gates)
        seconds.append(perf_counter() - started)
    expected = oracle({"direction": "t2b", "chunk": 0}, torch.float32, x=x, lam=lam, gates=gates)["h"]
    error = _error(got.numpy(), expected.numpy())
    size = f"{'x'.join(map(str, SCAN))} float32"
    return {"kernel": "scan.gspn", "size": size, "processes": jobs, "seconds": median(seconds[1:]), "error": error}


def _error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())
