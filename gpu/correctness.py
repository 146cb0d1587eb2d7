"""A kernel of the kit against its float64 oracle, under the one tolerance of the project."""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch

from gpu.cases import Case, Work
from gpu.kernels import Arrays, Kernels, draw, poisoned
from treadle.dtypes import dtype as find_dtype
from treadle.ir.oracles.check import compare

#: Elements compared at least: for a handful, the tolerance would weigh one rounding error against another.
ENOUGH = 256
Row = dict[str, Any]


def check(kernels: Kernels, case: Case, work: Work, oracle_on: str = "cpu") -> list[Row]:
    """One row per result: its error, what is allowed, and whether two runs gave the same bits.

    The oracle runs on the CPU, apart from everything that is being tested; at large sizes on the device, to end in time.
    """
    oracle = importlib.import_module(f"treadle.ir.oracles.{case.program}").oracle
    least = min(math.prod(r.sizes(work.sizes)) for r in case.results)
    triples: dict[str, list[tuple[torch.Tensor, ...]]] = {r.name: [] for r in case.results}
    repeatable = dict.fromkeys(triples, True)
    for seed in range(-(-ENOUGH // max(least, 1))):
        inputs = draw(case, work.sizes, oracle_on, seed)
        there = {n: t.to(kernels.device) for n, t in inputs.items()}
        first, second = (_run(kernels, case, work, there, oracle_on) for _ in range(2))
        truth, yardstick = (oracle(dict(case.attrs), state, **inputs) for state in (torch.float64, torch.float32))
        for n in triples:
            repeatable[n] &= same_bits(first[n], second[n])
            triples[n].append((first[n], truth[n], yardstick[n]))
    rows = []
    for n, found in triples.items():
        y, truth64, truth32 = (torch.stack(parts) for parts in zip(*found, strict=True))
        judged = verdict(y, truth64, truth32, case.dtype, repeatable[n])
        rows.append({**case.head, "sizes": dict(work.sizes), "result": n, **judged})
    return rows


def verdict(y: torch.Tensor, truth: torch.Tensor, yardstick: torch.Tensor, dtype: str, repeatable: bool) -> Row:
    """What a row says of a result: `ok`, and otherwise `why`."""
    found = compare(y, truth, yardstick, find_dtype(dtype).eps or 0.0)
    why = "out of tolerance" if not found.ok else "" if repeatable else "another run gave other bits: a race"
    error = found.error if math.isfinite(found.error) else str(found.error)  # JSON has no NaN
    return {"error": error, "bound": found.bound, "ok": not why, "why": why}


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """NaN differs from itself: compare bits."""
    return torch.equal(left.view(torch.uint8), right.view(torch.uint8))


def _run(kernels: Kernels, case: Case, work: Work, inputs: Arrays, to: str) -> Arrays:
    results = poisoned(case, work.sizes, kernels.device)
    kernels.call(case, (*inputs.values(), *results.values()))()
    return {n: t.to(to) for n, t in results.items()}
