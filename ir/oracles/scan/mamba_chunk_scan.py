"""Oracle of scan.mamba_chunk_scan: the recurrence, one token after another, in each sequence of the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from treadle.ir import Program

#: Attributes that checks draw from fewer values than the Program has: chunks that a short sequence is cut into, limits that bite.
DRAWN = {"chunk": (16, 16, 16, 32, 48, 128), "dt_min": (0.0, 0.0, 0.1), "dt_max": (float("inf"), float("inf"), 1.5)}


def table(lengths: list[int], chunk: int) -> dict[str, list[int]]:
    """The chunk table of sequences of these lengths."""
    count = sum(lengths) // chunk + len(lengths)
    first, seq, chunks, where, token = [], [], [], [], 0
    for s, length in enumerate(lengths):
        chunks.append(len(first))
        for start in range(0, length, chunk):
            first.append(token)
            seq.append(s)
            size = min(chunk, length - start)
            where += [len(first) - 1] * size
            token += size
    spare = count - len(first)
    return {
        "first": first + [token] * (spare + 1),
        "seq": seq + [len(lengths) - 1] * spare,
        "chunks": [*chunks, count],
        "chunk": where,
    }


def inputs(
    program: Program, drawn: dict[str, torch.Tensor], sizes: Mapping[str, int], rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """A table that fits, some of its sequences empty; A <= 0, now and then 0 or far below; steps of 0; biases of -12."""
    import torch

    def some(share: float, *shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.random(shape) < share)

    shares = rng.dirichlet(np.full(sizes["S"], 0.7))
    lengths = rng.multinomial(sizes["T"], shares).tolist()
    cut = {name: torch.tensor(values, dtype=torch.int32) for name, values in table(lengths, program.attrs["chunk"]).items()}
    heads = drawn["A"].shape
    a = -torch.exp(2 * drawn["A"])
    a = torch.where(some(0.1, *heads), 0.0, torch.where(some(0.1, *heads), -1e30, a))
    dt = torch.where(some(0.1, *drawn["dt"].shape), 0.0, drawn["dt"])
    bias = torch.where(some(0.2, *heads), -12.0, drawn["dt_bias"])
    return drawn | cut | {"A": a, "dt": dt, "dt_bias": bias}


def delta(attrs: Mapping[str, Any], dt: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    import torch

    step = dt + bias
    if attrs["softplus"]:
        step = torch.logaddexp(step, torch.zeros_like(step))
    return step.clamp(attrs["dt_min"], attrs["dt_max"])


def recurrence(
    attrs: Mapping[str, Any], chunks: torch.Tensor, first: torch.Tensor, x: torch.Tensor, dt: torch.Tensor,
    A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, dt_bias: torch.Tensor, initial: torch.Tensor,
    D: torch.Tensor | None = None, z: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """y [T,G,R,P] and the final states; every operand has a row for each token, B and C for each head: [T,G,R,N]."""
    import torch
    import torch.nn.functional as F

    step = delta(attrs, dt, dt_bias)
    y, final = [], []
    for s in range(len(initial)):
        h = initial[s]
        for t in range(int(first[chunks[s]]), int(first[chunks[s + 1]])):
            h = torch.exp(step[t] * A[t])[..., None, None] * h + (step[t][..., None] * x[t])[..., None] * B[t][..., None, :]
            y.append((h * C[t][..., None, :]).sum(-1))
        final.append(h)
    out = torch.stack(y)
    out = out if D is None else out + D * x
    return (out if z is None else out * F.silu(z)), torch.stack(final)


def operands(attrs: Mapping[str, Any], dtype: torch.dtype, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The float operands as `recurrence` takes them."""
    tokens, _, r, _ = given["x"].shape
    found = {n: given[n].to(dtype) for n in ("x", "dt", "initial", "z") if n in given}
    found |= {n: given[n].to(dtype).expand(tokens, *given[n].shape) for n in ("A", "D", "dt_bias") if n in given}
    return found | {n: given[n].to(dtype)[:, :, None].expand(-1, -1, r, -1) for n in ("B", "C")}


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **given: torch.Tensor) -> dict[str, torch.Tensor]:
    y, final = recurrence(attrs, given["chunks"], given["first"], **operands(attrs, dtype, given))
    return {"y": y, "final": final}
