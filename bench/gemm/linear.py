"""gemm.linear at the shapes of the C-GSPN encoders on a 448 x 448 picture, beside torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from treadle.api import compile
from treadle.bench.report import Column, Report, giga, milliseconds, times
from treadle.bench.timing import interleave, method
from treadle.ir import build

ROUNDS = 7
P = 32 * 32

#: (what, K, M, attributes)
SHAPES: tuple[tuple[str, int, int, dict[str, Any]], ...] = (
    ("tiny fc1", 192, 768, {"activation": "gelu_tanh"}),
    ("tiny fc2", 768, 192, {"residual": True}),
    ("tiny down", 192, 24, {"y_layout": "planes"}),
    ("tiny gates", 24, 72, {"x_layout": "planes", "y_layout": "planes"}),
    ("tiny up", 24, 192, {"x_layout": "planes", "residual": True}),
    ("base fc1", 768, 3072, {"activation": "gelu_tanh"}),
    ("base fc2", 3072, 768, {"residual": True}),
    ("base down", 768, 64, {"y_layout": "planes"}),
    ("base gates", 64, 192, {"x_layout": "planes", "y_layout": "planes"}),
)

LAYOUT = (
    Column("layer", "layer"),
    Column(">P", "P"),
    Column(">K", "K"),
    Column(">M", "M"),
    Column(">ms", "seconds", milliseconds),
    Column(">GFLOP/s", "flops_per_second", giga),
    Column(">torch ms", "torch_seconds", milliseconds),
    Column(">vs torch", "speedup", times),
    Column(">error", "error", "{:.1e}".format),
)


def measure(target: str, progress: Callable[[str], None]) -> Report:
    """Time each shape, compiled with its K and M fixed as in a model."""
    generator = torch.Generator().manual_seed(0)
    candidates: dict[str, Callable[[], object]] = {}
    rows: list[dict[str, Any]] = []
    for layer, k, m, attrs in SHAPES:
        progress(f"compiling {layer}")
        shape = (1, m, P) if attrs.get("y_layout") == "planes" else (1, P, m)
        args = [
            torch.randn((1, k, P) if attrs.get("x_layout") == "planes" else (1, P, k), generator=generator),
            torch.randn(m, k, generator=generator) * k**-0.5,
            torch.randn(m, generator=generator),
        ]
        if attrs.get("residual"):
            args.append(torch.randn(shape, generator=generator))
        kernel: Any = compile("gemm.linear", target, attrs=attrs, dims={"K": k, "M": m})
        out = torch.empty(shape)
        kernel(*args, out={"y": out})
        want = _torch(attrs, *args)
        error = float((out - want).abs().max() / want.abs().max())
        candidates[f"treadle {layer}"] = partial(kernel, *args, out={"y": out})
        candidates[f"torch {layer}"] = partial(_torch, attrs, *args)
        flops = build("gemm.linear").cost({"N": 1, "P": P, "K": k, "M": m}).flops
        rows.append({"layer": layer, "P": P, "K": k, "M": m, "attrs": attrs, "flops": flops, "error": error})
    progress("timing")
    timed = interleave(candidates, ROUNDS)
    for row in rows:
        mine, torchs = timed[f"treadle {row['layer']}"].median, timed[f"torch {row['layer']}"].median
        row |= {"seconds": mine, "flops_per_second": row["flops"] / mine, "torch_seconds": torchs, "speedup": torchs / mine}
    threads = torch.get_num_threads()
    return Report("gemm.linear", f"gemm.linear float32 on {target}", LAYOUT, rows, method(ROUNDS), {"torch_threads": threads})


def _torch(
    attrs: dict[str, Any], x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """The same layer as torch users write it, its result contiguous."""
    y = F.linear(x.transpose(1, 2) if attrs.get("x_layout") == "planes" else x, weight, bias)
    y = F.gelu(y, approximate="tanh") if "activation" in attrs else y
    y = y.transpose(1, 2).contiguous() if attrs.get("y_layout") == "planes" else y
    return y if residual is None else y + residual
