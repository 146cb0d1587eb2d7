"""scan.selective_scan and its adjoint, B2 D1536 L2048 N16 with gate, beside a torch loop over time and the bound of exponentials."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from treadle.api import compile
from treadle.bench.report import Column, Report, milliseconds, percent, times
from treadle.bench.timing import interleave, method
from treadle.ir.oracles.scan.selective_scan import operands, recurrence
from treadle.kernel import Kernel

S, D, L, N = 2, 1536, 2048, 16
ROUNDS = 5
ATTRS = {"state": N, "softplus": True, "gate": True}

LAYOUT = (
    Column("dtype", "dtype"),
    Column("pass", "pass"),
    Column(">ms", "seconds", milliseconds),
    Column(">of exp bound", "share_of_exps", percent),
    Column(">torch ms", "torch_seconds", milliseconds),
    Column(">vs torch", "speedup", times),
)


def drawn() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    given = {"u": normal(S, 1, D, L), "delta": normal(S, 1, D, L), "A": -torch.exp(normal(1, D, N))}
    given |= {"B": normal(S, 1, N, L), "C": normal(S, 1, N, L), "D": normal(1, D), "z": normal(S, 1, D, L)}
    return given | {"delta_bias": normal(1, D) - 4, "initial": torch.zeros(S, 1, D, N)}


def measure(target: str, progress: Callable[[str], None]) -> Report:
    """Time both Programs; the bound is the time that torch's vectorised exp takes for as many exponentials, on all cores."""
    given = drawn()
    grads = {"dy": torch.randn_like(given["u"]), "dlast": torch.zeros_like(given["initial"])}
    exps = torch.randn(S * D * L * N // 8)
    candidates: dict[str, Callable[[], object]] = {
        "torch": partial(recurrence, ATTRS, **operands(torch.float32, given)),
        "exps": partial(torch.exp, exps, out=torch.empty_like(exps)),
    }
    for dtype in ("float32", "bfloat16"):
        kind = getattr(torch, dtype)
        for name, extra in (("forward", {}), ("backward", grads)):
            progress(f"compiling {name} {dtype}")
            program = "scan.selective_scan" + ("_adjoint" if extra else "")
            made = compile(program, target, dtype=dtype, attrs=ATTRS)
            assert isinstance(made, Kernel)
            args = {n: t.to(kind) if n in ("u", "delta", "B", "C", "z", "dy") else t for n, t in {**extra, **given}.items()}
            candidates[f"{name} {dtype}"] = partial(made, **args)
    progress(f"timing {len(candidates)} candidates in {ROUNDS} rounds")
    timed = interleave(candidates, ROUNDS)
    rows = []
    for dtype in ("float32", "bfloat16"):
        for name, walks in (("forward", 1), ("backward", 2)):
            ours = timed[f"{name} {dtype}"].median
            row = {"dtype": dtype, "pass": name, "seconds": ours, "share_of_exps": 8 * walks * timed["exps"].median / ours}
            theirs = timed["torch"].median if walks == 1 else float("nan")
            rows.append({**row, "torch_seconds": theirs, "speedup": theirs / ours})
    return Report(
        "scan.selective_scan",
        f"scan.selective_scan B{S} D{D} L{L} N{N}, gate, on {target}",
        LAYOUT,
        rows,
        method(ROUNDS),
        {"exp_seconds": 8 * timed["exps"].median, "exps": S * D * L * N},
        ["of exp bound: torch.exp of as many float32, twice as many backward; torch: a loop over time in float32, forward only"],
    )
