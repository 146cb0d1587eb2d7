"""Oracle of scan.causal_conv1d_update: a sequence at a time, its history laid out in order, convolved, and put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.scan.selective_state_update import draw_slots

if TYPE_CHECKING:
    import numpy as np
    import torch


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch
    import torch.nn.functional as F

    first = attrs["layout"] == "bdl"
    x, state = (inputs[n].to(dtype) if first else inputs[n].to(dtype).transpose(1, 2) for n in ("x", "state"))
    weight, bias = inputs["weight"].to(dtype), inputs["bias"].to(dtype)
    width, kept = len(weight), state.shape[-1]
    y, state = torch.zeros_like(x), state.clone()
    slots = inputs["slots"].tolist() if attrs["slots"] else range(len(x))
    for i, slot in enumerate(slots):
        if not 0 <= slot < len(state):
            continue
        # Step t stands at t modulo W: turned by where the next one would, the oldest comes first.
        turn = int(inputs["position"][i]) % kept if attrs["ring"] else 0
        history = torch.cat([state[slot].roll(-turn, -1), x[i]], -1)
        window = history[:, kept - width + 1 :].unfold(-1, width, 1)
        pre = (window * weight.T[:, None]).sum(-1) + bias[:, None]
        y[i] = F.silu(pre) if attrs["activation"] == "silu" else pre
        turn = turn + x.shape[-1] if attrs["ring"] else 0
        state[slot] = history[:, -kept:].roll(turn % kept, -1)
    return {"y": y, "state": state} if first else {"y": y.transpose(1, 2), "state": state.transpose(1, 2)}


def inputs(
    program: Any, inputs: dict[str, torch.Tensor], sizes: Mapping[str, int], rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    import torch

    if "position" in inputs:
        inputs["position"] = torch.from_numpy(rng.integers(0, 3 * sizes["W"], sizes["S"])).int()
    draw_slots(inputs, rng)
    return inputs
