"""scan.mamba_chunk_scan at a Nemotron layer's 64 heads of 64 channels and 128 states, as torch calls it, beside transformers.

The torch side is the chunk scan of transformers' nemotron_h without kernels: einsums over masks of every head and chunk. A
call of ours is one of `treadle.torch.mamba_chunk_scan_combined`, checks and dispatch included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import treadle.torch as tt
from treadle.bench.report import Column, Report, milliseconds, times
from treadle.bench.timing import interleave, method
from treadle.ir import build

H, P, N, G, LENGTH = 64, 64, 128, 8, 2048
CHUNKS = (128, 256)
ROUNDS = 3

LAYOUT = (
    Column(">chunk", "chunk"),
    Column("pass", "pass"),
    Column(">ms", "seconds", milliseconds),
    Column(">GFLOP/s", "flops_per_second", lambda v: f"{v / 1e9:.0f}"),
    Column(">torch ms", "torch_seconds", milliseconds),
    Column(">vs torch", "speedup", times),
    Column(">error", "error", "{:.1e}".format),
)


def measure(target: str, progress: Callable[[str], None]) -> Report:
    """Operations are those of Program.cost: products above the diagonal are not counted, though torch does them."""
    from transformers.models.nemotron_h.modeling_nemotron_h import mamba2_chunk_scan

    rows: list[dict[str, Any]] = []
    for chunk in CHUNKS:
        progress(f"chunks of {chunk}")
        given = _operands()
        options = {"chunk_size": chunk, "dt_softplus": True}
        ours = partial(tt.mamba_chunk_scan_combined, **options)
        theirs = partial(_theirs, mamba2_chunk_scan, **options)
        sides = {
            "forward": [partial(f, **given) for f in (ours, theirs)],
            "forward and backward": [_backward(f, given) for f in (ours, theirs)],
        }
        sizes = {"T": LENGTH, "S": 1, "G": G, "R": H // G, "P": P, "N": N}
        for name, (mine, other) in sides.items():
            with torch.set_grad_enabled(name != "forward"):
                error = _error(mine(), other())
                timed = interleave({"ours": mine, "torch": other}, ROUNDS)
            programs = ["scan.mamba_chunk_scan"] + ([] if name == "forward" else ["scan.mamba_chunk_scan_adjoint"])
            flops = sum(build(p, attrs={"chunk": chunk}).cost(sizes).flops for p in programs)
            seconds, other_seconds = timed["ours"].median, timed["torch"].median
            rows.append(
                {
                    "chunk": chunk, "pass": name, "seconds": seconds, "flops_per_second": flops / seconds,
                    "torch_seconds": other_seconds, "speedup": other_seconds / seconds, "error": error,
                }
            )  # fmt: skip
    return Report(
        "scan.mamba_chunk_scan",
        f"scan.mamba_chunk_scan float32 on {target}, L={LENGTH} H={H} P={P} N={N} G={G}",
        LAYOUT,
        rows,
        f"{method(ROUNDS)}; chunks and passes one after the other",
        {},
        ["error: the largest of any result, relative to the largest of transformers'"],
    )


def _operands() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    return {
        "x": normal(1, LENGTH, H, P), "dt": normal(1, LENGTH, H) - 3, "A": -torch.rand(H, generator=random) * 15 - 1,
        "B": normal(1, LENGTH, G, N), "C": normal(1, LENGTH, G, N), "D": normal(H), "dt_bias": normal(H),
    }  # fmt: skip


def _theirs(function: Callable[..., Any], x: torch.Tensor, **given: Any) -> Any:
    """transformers calls x hidden_states."""
    return function(hidden_states=x, **given)


def _backward(call: Callable[..., Any], given: dict[str, torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    leaves = {n: t.clone().requires_grad_() for n, t in given.items()}
    slope = torch.randn(1, LENGTH, H, P, generator=torch.Generator().manual_seed(1))

    def run() -> list[torch.Tensor]:
        y = call(**leaves)
        return [y.detach(), *torch.autograd.grad(y, list(leaves.values()), slope)]

    return run


def _error(found: Any, want: Any) -> float:
    pairs = zip(found, want, strict=True) if isinstance(found, list) else [(found, want)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
