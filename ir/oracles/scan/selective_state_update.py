"""Oracle of scan.selective_state_update: tokens one after another, on a copy of the states.

In float64 nothing is rounded. In float32 the state takes its own dtype after every token, as the Program says: what that
costs is the measure of how wrong a kernel may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch
    import torch.nn.functional as F

    raw = inputs
    state, x, dt, A, B, C, D, bias = (inputs[n].to(dtype) for n in ("state", "x", "dt", "A", "B", "C", "D", "dt_bias"))
    z = inputs["z"].to(dtype) if attrs["gate"] else None
    sequences, tokens = x.shape[:2]
    slots = inputs["slots"].tolist() if attrs["slots"] else range(sequences)
    y, states = torch.zeros_like(x), torch.zeros(*x.shape, state.shape[-1], dtype=dtype)
    # One step for each channel, whichever the operands have.
    wide = (lambda v: v[..., None].expand(*v.shape, x.shape[-1])) if attrs["tied"] else (lambda v: v)
    rate = wide(A)[..., None] if attrs["tied"] else A
    for i, slot in enumerate(slots):
        if not 0 <= slot < len(state):
            continue
        for t in range(tokens):
            step = wide(dt[i, t]) + wide(bias)
            step = F.softplus(step, threshold=1e9) if attrs["softplus"] else step
            step = step.clamp(attrs["dt_min"], attrs["dt_max"])[..., None]
            before = state[slot]
            after = torch.exp(step * rate) * before + step * x[i, t, ..., None] * B[i, t, :, None, None]
            out = (after * C[i, t, :, None, None]).sum(-1) + wide(D) * x[i, t]
            y[i, t] = out if z is None else out * F.silu(z[i, t])
            state[slot] = states[i, t] = after if dtype == torch.float64 else _kept(attrs["state"], after, raw, slot, t)
    return {"y": y, "state": state} | ({"states": states} if attrs["history"] else {})


def _kept(kind: str, value: torch.Tensor, inputs: Mapping[str, torch.Tensor], slot: int, token: int) -> torch.Tensor:
    import torch

    if kind != "float16_stochastic":
        return value.to(getattr(torch, kind)).to(value.dtype)
    seed, offset = int(inputs["seed"]), int(inputs["offset"])
    bits = torch.from_numpy(bits_of(slot * value.numel(), value.numel(), offset + token, seed)).reshape(value.shape)
    return stochastic(value, bits).to(value.dtype)


def stochastic(value: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """float32 to float16 by the upper 13 of 16 bits: down to the number below in magnitude, or up where the fraction is more."""
    import torch

    magnitude = value.double().abs()
    spacing = torch.exp2(torch.floor(torch.log2(magnitude.clamp(min=2.0**-14))) - 10)
    units = torch.floor(magnitude / spacing + (bits >> 3).double() / 8192)
    return torch.copysign((units * spacing).clamp(max=65504.0), value.double()).to(torch.float16)


def bits_of(first: int, count: int, step: int, seed: int) -> np.ndarray[Any, Any]:
    """The 16 bits of elements first, first + 1, ...: eight share a block of Philox4x32-10, lower half words first."""
    import numpy as np

    index = np.arange(first, first + count, dtype=np.uint64)
    block, place = index >> np.uint64(3), index & np.uint64(7)
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    step_bits, seed_bits = np.uint64(step % 2**64), np.uint64(seed % 2**64)
    c = [block & low, block >> shift, np.full_like(block, step_bits & low), np.full_like(block, step_bits >> shift)]
    key = [int(seed_bits & low), int(seed_bits >> shift)]
    for _ in range(10):
        left, right = (a * np.uint64(m) for a, m in ((c[0], 0xD2511F53), (c[2], 0xCD9E8D57)))
        c = [(right >> shift) ^ c[1] ^ np.uint64(key[0]), right & low, (left >> shift) ^ c[3] ^ np.uint64(key[1]), left & low]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    word = np.choose((place >> np.uint64(1)).astype(np.intp), c)
    return ((word >> (np.uint64(16) * (place & np.uint64(1)))) & np.uint64(0xFFFF)).astype(np.int64)


def inputs(
    program: Any, inputs: dict[str, torch.Tensor], sizes: Mapping[str, int], rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """Rates that decay, to nothing at once some of them; steps of nothing; slots of their own, some none at all."""
    import torch

    def some(t: torch.Tensor, share: float) -> torch.Tensor:
        return torch.from_numpy(rng.random(tuple(t.shape)) < share)

    A, dt, bias = inputs["A"], inputs["dt"], inputs["dt_bias"]
    inputs["A"] = torch.where(some(A, 0.05), -1e30, -A.exp())
    inputs["dt"] = torch.where(some(dt, 0.1), 0.0, dt)
    inputs["dt_bias"] = torch.where(some(bias, 0.2), -12.0, bias)
    draw_slots(inputs, rng)
    for name in ("seed", "offset"):
        if name in inputs:
            inputs[name] = torch.from_numpy(rng.integers(0, 2**62, 1))
    return inputs


def draw_slots(inputs: dict[str, torch.Tensor], rng: np.random.Generator) -> None:
    """Slots of their own for all sequences that there are slots for, but for a tenth, which have none."""
    import torch

    if "slots" not in inputs:
        return
    count = len(inputs["slots"])
    free = rng.permutation(len(inputs["state"]))[:count]
    chosen = torch.full((count,), -1, dtype=torch.int32)
    chosen[: len(free)] = torch.from_numpy(free).int()
    chosen[torch.from_numpy(rng.random(count) < 0.1)] = -1
    inputs["slots"] = chosen[torch.from_numpy(rng.permutation(count))]
