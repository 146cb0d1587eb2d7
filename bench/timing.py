"""Timing several candidates against each other on a machine that is never quiet.

The candidates take turns, round after round, so that drift and neighbours hit them alike; each figure is a median over rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter, sleep

#: Seconds that a candidate runs in one round at least, by repeated calls.
LEAST = 0.02
#: Seconds between candidates: OpenMP's threads spin for milliseconds after their work, on cores the next one needs.
PAUSE = 0.02


@dataclass(frozen=True)
class Timing:
    """Seconds per call."""

    median: float
    best: float
    rounds: int
    calls: int  #: per round


def interleave(candidates: Mapping[str, Callable[[], object]], rounds: int = 7) -> dict[str, Timing]:
    """Seconds per call of each candidate."""
    calls = {name: _calls(run) for name, run in candidates.items()}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            sleep(PAUSE)
            run()  # untimed: the candidate before it left its data in the caches
            started = perf_counter()
            for _ in range(calls[name]):
                run()
            seconds[name].append((perf_counter() - started) / calls[name])
    return {name: Timing(median(s), min(s), rounds, calls[name]) for name, s in seconds.items()}


def method(rounds: int) -> str:
    """The sentence that goes with the figures."""
    return (
        f"median of {rounds} interleaved rounds, at least {LEAST * 1e3:.0f} ms per candidate and round, after a pause and an untimed call each"
    )


def _calls(run: Callable[[], object]) -> int:
    """Calls that fill a round; the first call warms up, and where it is slow already it tells enough."""
    seconds = _seconds(run)
    return 1 if seconds > 10 * LEAST else max(1, round(LEAST / _seconds(run)))


def _seconds(run: Callable[[], object]) -> float:
    started = perf_counter()
    run()
    return max(perf_counter() - started, 1e-9)
