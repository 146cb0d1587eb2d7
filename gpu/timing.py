"""How long a kernel takes, and what the same machine could have done at best, measured in the same run.

On CUDA a graph of many launches is replayed between two events, so that neither the host nor the gaps between launches are
in the figure. Launches walk over several sets of arrays that together exceed the last-level cache twice: what a launch
reads was not left there by the one before. On the CPU the same calls are timed by the clock, to test this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from time import perf_counter
from typing import Any

import torch

from gpu.cases import Case, Work

Call = Callable[[], object]
_CPU_CACHE = 32 << 20
#: Arrays of the reference copy, and sides of the reference product: large enough for the device's best rate.
_COPY_BYTES, _SIDES = 1 << 30, {"float32": 4096, "float16": 8192, "bfloat16": 8192}


@dataclass(frozen=True)
class Timer:
    """The method, fixed for a run. `least` is how long one replay lasts at least, in seconds."""

    device: str
    replays: int = 30
    least: float = 2e-3

    @property
    def cache_bytes(self) -> int:
        return torch.cuda.get_device_properties(self.device).L2_cache_size if self.on_cuda else _CPU_CACHE

    @property
    def on_cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def method(self) -> str:
        how = "a CUDA graph of launches between two events" if self.on_cuda else "calls by the clock"
        return (
            f"{how}, {self.replays} times of at least {self.least * 1e3:g} ms after a warm-up; arrays rotate so that together"
            f" they exceed twice the last-level cache ({self.cache_bytes >> 20} MiB)"
        )

    def time(self, calls: Sequence[Call]) -> dict[str, float]:
        """Seconds per call: median, p10 and p90 over the replays of all calls in turn."""
        for call in calls:
            call()  # loads modules and grows arenas, which cannot be captured
        once = self._seconds(self._replayed(calls, 1))
        rounds = max(1, round(self.least / max(once, 1e-9)))
        replay = self._replayed(calls, rounds)
        self._seconds(replay)
        seconds = [self._seconds(replay) / (rounds * len(calls)) for _ in range(self.replays)]
        deciles = quantiles(seconds, n=10)
        return {"median": quantiles(seconds, n=2)[0], "p10": deciles[0], "p90": deciles[-1]}

    def wall(self, call: Call) -> float:
        """Seconds until a call returns, its kernels perhaps still queued: what the host pays."""
        seconds = []
        for _ in range(self.replays):
            self._wait()
            started = perf_counter()
            call()
            seconds.append(perf_counter() - started)
        return quantiles(seconds, n=2)[0]

    def _replayed(self, calls: Sequence[Call], rounds: int) -> Call:
        def all_calls() -> None:
            for _ in range(rounds):
                for call in calls:
                    call()

        if not self.on_cuda:
            return all_calls
        self._wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            all_calls()
        return graph.replay

    def _seconds(self, replay: Call) -> float:
        if not self.on_cuda:
            started = perf_counter()
            replay()
            return perf_counter() - started
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3

    def _wait(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize()


def time_case(case: Case, kernel: Callable[..., None], work: Work, timer: Timer) -> dict[str, Any]:
    """One row: seconds, and the rates they amount to."""
    sets = min(64, max(1, -(-2 * timer.cache_bytes // max(work.bytes, 1))))
    arrays = [(case.draw(work.sizes, timer.device, seed), case.poisoned(work.sizes, timer.device)) for seed in range(sets)]
    seconds = timer.time([_call(kernel, inputs, results) for inputs, results in arrays])
    return {
        "program": case.program, "dtype": case.dtype, "attrs": dict(case.attrs), "schedule": case.schedule,
        "sizes": dict(work.sizes), "bytes": work.bytes, "flops": work.flops, "sets": sets, "seconds": seconds,
        "bytes_per_second": work.bytes / seconds["median"], "flops_per_second": work.flops / seconds["median"],
    }  # fmt: skip


def ceilings(timer: Timer, quick: bool) -> dict[str, Any]:
    """What torch reaches here: bytes per second of a copy, read and written, and operations per second of a product."""
    size = _COPY_BYTES >> 6 if quick else _COPY_BYTES
    products = {}
    for kind, side in _SIDES.items():
        side = 256 if quick else side
        a, b = (torch.randn(side, side, device=timer.device).to(getattr(torch, kind)) for _ in range(2))
        c = torch.empty_like(a)
        products[kind] = 2 * side**3 / timer.time([_product(a, b, c)])["median"]
    return {
        "copy_bytes_per_second": 2 * size / timer.time([_copy(size, timer.device)])["median"],
        "matmul_flops_per_second": products,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def _call(kernel: Callable[..., None], inputs: dict[str, torch.Tensor], results: dict[str, torch.Tensor]) -> Call:
    arrays = (*inputs.values(), *results.values())
    return lambda: kernel(*arrays)


def _copy(size: int, device: str) -> Call:
    source, goal = torch.randn(size // 4, device=device), torch.empty(size // 4, device=device)
    return lambda: goal.copy_(source)


def _product(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> Call:
    return lambda: torch.matmul(a, b, out=c)
