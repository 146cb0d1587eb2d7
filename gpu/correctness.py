"""Every kernel of the kit against its float64 oracle, under the one tolerance of the project."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch

from gpu.cases import Case, Work
from treadle.ir.oracles.check import compare

#: Elements compared at least: for a handful, the tolerance would weigh one rounding error against another.
ENOUGH = 256
Row = dict[str, Any]


def check(case: Case, kernel: Callable[..., None], device: str) -> list[Row]:
    """One row per size and result. A kernel that raises fails all its rows."""
    rows = []
    for work in case.checked:
        try:
            rows += _check(case, kernel, work, device)
        except Exception as wrong:  # of the kernel: CUDA errors arrive as many kinds, and the next case must still be tried
            rows.append({**_head(case, work), "ok": False, "why": f"{type(wrong).__name__}: {wrong}"})
    return rows


def _check(case: Case, kernel: Callable[..., None], work: Work, device: str) -> list[Row]:
    oracle = importlib.import_module(f"treadle.ir.oracles.{case.program}").oracle
    least = min(math.prod(r.sizes(work.sizes)) for r in case.results)
    triples: dict[str, list[tuple[torch.Tensor, ...]]] = {r.name: [] for r in case.results}
    repeatable = dict.fromkeys(triples, True)
    for seed in range(-(-ENOUGH // max(least, 1))):
        inputs = case.draw(work.sizes, "cpu", seed)
        there = {n: t.to(device) for n, t in inputs.items()}
        first, second = (_run(case, kernel, work, there, device) for _ in range(2))
        truth, yardstick = (oracle(dict(case.attrs), state, **inputs) for state in (torch.float64, torch.float32))
        for n in triples:
            # NaN differs from itself: compare bits.
            repeatable[n] &= torch.equal(first[n].view(torch.uint8), second[n].view(torch.uint8))
            triples[n].append((first[n], truth[n], yardstick[n]))
    rows = []
    for n, found in triples.items():
        verdict = compare(*(torch.stack(parts) for parts in zip(*found, strict=True)), case.eps)
        why = "out of tolerance" if not verdict.ok else "" if repeatable[n] else "another run gave other bits: a race"
        head = {**_head(case, work), "result": n, "error": verdict.error, "bound": verdict.bound}
        rows.append({**head, "ok": not why, "why": why})
    return rows


def _run(
    case: Case, kernel: Callable[..., None], work: Work, inputs: dict[str, torch.Tensor], device: str
) -> dict[str, torch.Tensor]:
    results = case.poisoned(work.sizes, device)
    kernel(*inputs.values(), *results.values())
    return {n: t.cpu() for n, t in results.items()}


def _head(case: Case, work: Work) -> Row:
    return {
        "program": case.program, "dtype": case.dtype, "attrs": dict(case.attrs), "schedule": case.schedule,
        "sizes": dict(work.sizes),
    }  # fmt: skip
