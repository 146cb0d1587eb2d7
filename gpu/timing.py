"""How long a kernel takes, and what the same machine could have done at best, measured in the same run.

On CUDA a graph of many launches is replayed between two events, so that neither the host nor the gaps between launches are
in the figure. Launches walk over several sets of arrays that together exceed the last-level cache twice: what a launch
reads was not left there by the one before. On the CPU the same calls are timed by the clock, to test this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch

from gpu import clocks
from gpu.cases import Case, Work
from gpu.kernels import Call, Kernels, draw, poisoned

_CPU_CACHE = 32 << 20
_MOST_SETS = 64
#: Arrays of the reference copy, and sides of the reference product: large enough for the device's best rate.
_COPY_BYTES, _SIDES = 1 << 30, {"float32": 4096, "float16": 8192, "bfloat16": 8192}
Row = dict[str, Any]


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

    def time(self, calls: Sequence[Call]) -> Row:
        """Seconds per call over the replays of all calls in turn: median, p10, p90; and the clocks while they ran."""
        for call in calls:
            call()  # loads modules and grows arenas, which cannot be captured
        short = self._replayed(calls, 1)
        self._seconds(short)  # a graph's first replay also uploads it
        once = self._seconds(short)[0]
        rounds = max(1, round(self.least / max(once, 1e-9)))
        replay = self._replayed(calls, rounds)
        self._seconds(replay)
        found = [self._seconds(replay) for _ in range(self.replays)]
        seconds = [s / (rounds * len(calls)) for s, _ in found]
        deciles = quantiles(seconds, n=10, method="inclusive")  # none outside what was seen
        ran = clocks.span([c for _, c in found])
        return {
            "median": median(seconds),
            "p10": deciles[0],
            "p90": deciles[-1],
            "launches": rounds * len(calls),
            "clocks": ran,
        }

    def wall(self, call: Call) -> float:
        """Seconds until a call returns, its kernels perhaps still queued: what the host pays."""
        seconds = []
        for _ in range(self.replays):
            self._wait()
            started = perf_counter()
            call()
            seconds.append(perf_counter() - started)
        return median(seconds)

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

    def _seconds(self, replay: Call) -> tuple[float, clocks.Sample | None]:
        if not self.on_cuda:
            started = perf_counter()
            replay()
            return perf_counter() - started, None
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        replay()
        end.record()
        now = clocks.sample(str(torch.cuda.get_device_properties(self.device).uuid))  # while the replay runs
        end.synchronize()
        return start.elapsed_time(end) * 1e-3, now

    def _wait(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize()


def time_case(kernels: Kernels, case: Case, work: Work, timer: Timer) -> Row:
    """One row: seconds, and the rates they amount to."""
    sets = min(_MOST_SETS, 1 + 2 * timer.cache_bytes // max(work.bytes, 1))
    calls = []
    for seed in range(sets):
        arrays = {**draw(case, work.sizes, timer.device, seed), **poisoned(case, work.sizes, timer.device)}
        calls.append(kernels.call(case, arrays.values()))
    seconds = timer.time(calls)
    return {
        **case.head, "sizes": dict(work.sizes), "bytes": work.bytes, "flops": work.flops, "sets": sets, "seconds": seconds,
        "bytes_per_second": work.bytes / seconds["median"], "flops_per_second": work.flops / seconds["median"],
    }  # fmt: skip


def ceilings(timer: Timer, quick: bool) -> Row:
    """What torch reaches here: bytes per second of a copy, read and written, and operations per second of a product."""
    size = _COPY_BYTES >> 6 if quick else _COPY_BYTES
    products = {}
    for kind, side in _SIDES.items():
        side = 256 if quick else side
        a, b = (torch.randn(side, side, device=timer.device).to(getattr(torch, kind)) for _ in range(2))
        c = torch.empty_like(a)
        products[kind] = _product_row(side, timer.time([_product(a, b, c)]))
    copied = timer.time([_copy(size, timer.device)])
    return {
        "copy": {"bytes": 2 * size, "seconds": copied, "bytes_per_second": 2 * size / copied["median"]},
        "matmul": products,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def _product_row(side: int, seconds: Row) -> Row:
    return {"side": side, "seconds": seconds, "flops_per_second": 2 * side**3 / seconds["median"]}


def _copy(size: int, device: str) -> Call:
    source, goal = torch.randn(size // 4, device=device), torch.empty(size // 4, device=device)
    return lambda: goal.copy_(source)


def _product(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> Call:
    return lambda: torch.matmul(a, b, out=c)
