"""A kernel at sizes whose float64 oracle would not fit beside it: a few planes of many, all of it for values never written.

Only for programs whose planes [N, C] are independent of each other, as those of a scan are.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from gpu.cases import Case, Work
from gpu.correctness import same_bits, verdict
from gpu.kernels import Kernels, draw, poisoned

Row = dict[str, Any]
#: Programs with independent planes; bytes of a call above which the oracle sees a part; planes it sees at either end.
PLANES, MOST, ENDS = ("scan.gspn",), 8 << 30, 2


def needed(case: Case, work: Work) -> bool:
    return case.program in PLANES and work.bytes > MOST


def check(kernels: Kernels, case: Case, work: Work) -> list[Row]:
    """One row per result, as correctness.check gives them: the first and last planes of the first and last image are compared."""
    oracle = importlib.import_module(f"treadle.ir.oracles.{case.program}").oracle
    inputs = draw(case, work.sizes, kernels.device)
    runs = []
    for _ in range(2):
        results = poisoned(case, work.sizes, kernels.device)
        kernels.call(case, (*inputs.values(), *results.values()))()
        runs.append(results)
    first, second = runs
    rows = []
    for name in first:
        y, truth, yardstick = [], [], []
        for n in sorted({0, work.sizes["N"] - 1}):
            for planes in (slice(0, ENDS), slice(-ENDS, None)):
                part = {k: _part(t, n, planes) for k, t in inputs.items()}
                y.append(_part(first[name], n, planes))
                for found, state in ((truth, torch.float64), (yardstick, torch.float32)):
                    found.append(oracle(dict(case.attrs), state, **part)[name])
        row = verdict(*(torch.cat(p) for p in (y, truth, yardstick)), case.dtype, same_bits(first[name], second[name]))
        if not torch.isfinite(first[name]).all():
            row |= {"ok": False, "why": "values that were never written, or are not finite"}
        rows.append({**case.head, "sizes": dict(work.sizes), "result": name, **row})
    return rows


def _part(t: torch.Tensor, n: int, planes: slice) -> torch.Tensor:
    """Planes of one image; of gates [N, 3, G, H, W] those of the same channels, or the ones that all share."""
    image = t[n : n + 1]
    if t.dim() == 4:
        return image[:, planes].contiguous()
    return (image if t.shape[2] == 1 else image[:, :, planes]).contiguous()
