"""The kit's way of timing on CUDA, with a clock in place of the device: what is captured, replayed and divided by what."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CDLL
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
L2, LAUNCH = 50 << 20, 20e-6


class Card:
    """Takes 20 us for every launch. Events read its clock; a graph repeats what was launched while it was captured."""

    def __init__(self) -> None:
        self.clock, self.launches, self.replays = 0.0, 0, 0
        self.capturing: Any = None

    def launch(self) -> None:
        if self.capturing is None:
            self.clock += LAUNCH
            self.launches += 1
        else:
            self.capturing.calls += 1

    def event(self, enable_timing: bool) -> SimpleNamespace:
        made = SimpleNamespace(at=0.0, synchronize=lambda: None)
        made.record = lambda: setattr(made, "at", self.clock)
        made.elapsed_time = lambda end: (end.at - made.at) * 1e3
        return made

    def graph(self) -> SimpleNamespace:
        made = SimpleNamespace(calls=0)

        def replay() -> None:
            self.clock += made.calls * LAUNCH
            self.replays += 1

        made.replay = replay
        return made

    @contextmanager
    def capture(self, graph: Any) -> Iterator[None]:
        self.capturing = graph
        yield
        self.capturing = None


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    made = Card()
    facts = SimpleNamespace(L2_cache_size=L2, uuid="5e55-10ad", multi_processor_count=132, total_memory=80 << 30)
    for name, value in {
        "get_device_properties": lambda device: facts, "synchronize": lambda: None, "CUDAGraph": made.graph,
        "graph": made.capture, "Event": made.event,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    return made


@pytest.fixture(scope="module")
def timing() -> ModuleType:
    sys.path.insert(0, str(ROOT))
    try:
        from gpu import timing
    finally:
        sys.path.remove(str(ROOT))
    return timing


def test_replays_are_long_enough_and_counted_per_launch(card: Card, timing: ModuleType) -> None:
    timer = timing.Timer("cuda:0")
    found = timer.time([card.launch] * 4)
    assert card.launches == 4  # the warm-up; everything else is replayed
    assert card.replays == 2 + 1 + timer.replays
    # 4 launches take 80 us: 25 rounds of them fill 2 ms.
    assert found["launches"] == 100 and found["clocks"] is None
    assert found["median"] == pytest.approx(LAUNCH) and found["p10"] == pytest.approx(LAUNCH)
    assert "a CUDA graph of launches" in timer.method and "(50 MiB)" in timer.method


@pytest.mark.parametrize(("bytes_", "sets"), [(1 << 30, 1), (40 << 20, 3), (1 << 20, 64)])
def test_arrays_rotate_through_more_than_the_cache(
    card: Card, timing: ModuleType, monkeypatch: pytest.MonkeyPatch, bytes_: int, sets: int
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(timing, "draw", lambda case, sizes, device, seed: drawn.append(seed) or {"x": seed})
    monkeypatch.setattr(timing, "poisoned", lambda case, sizes, device: {"y": -1})
    work = SimpleNamespace(sizes={"N": 1}, bytes=bytes_, flops=10)
    called: list[list[int]] = []

    def call(case: Any, arrays: Any) -> Callable[[], object]:
        called.append(list(arrays))
        return card.launch

    row = timing.time_case(SimpleNamespace(call=call), SimpleNamespace(head={}), work, timing.Timer("cuda:0"))
    assert drawn == list(range(sets)) and called == [[seed, -1] for seed in drawn]
    assert row["sets"] == sets and (sets == 64 or sets * bytes_ > 2 * L2)
    assert row["bytes_per_second"] == pytest.approx(bytes_ / LAUNCH) and row["flops_per_second"] == pytest.approx(10 / LAUNCH)


NVML = """
#include <cstring>
using Card = const char*;
extern "C" {
int nvmlInit_v2() { return 0; }
int nvmlDeviceGetHandleByUUID(const char* uuid, Card* card) { *card = "card"; return std::strcmp(uuid, "GPU-5e55-10ad") ? 6 : 0; }
int nvmlDeviceGetClockInfo(Card, int kind, unsigned* mhz) { *mhz = kind == 1 ? 1980 : kind == 2 ? 2619 : 0; return 0; }
int nvmlDeviceGetTemperature(Card, int sensor, unsigned* degrees) { *degrees = 40 + sensor; return 0; }
int nvmlDeviceGetPowerUsage(Card, unsigned*) { return 3; }
}
"""


def test_clocks_are_read_while_it_runs(card: Card, timing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvml.cc").write_text(NVML)
    subprocess.run(["c++", "-shared", "-fPIC", "nvml.cc", "-o", "nvml.so"], cwd=tmp_path, check=True)
    monkeypatch.setattr(timing.clocks, "_nvml", lambda: CDLL(str(tmp_path / "nvml.so")))
    found = timing.Timer("cuda:0").time([card.launch])["clocks"]
    assert found == {"sm_mhz": [1980, 1980], "memory_mhz": [2619, 2619], "celsius": [40, 40], "watts": [-1, -1]}
    assert timing.clocks.sample("another") is None
