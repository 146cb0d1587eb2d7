"""Oracle of attention.attention: the whole matrix of weights, written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Heads that checks draw: ragged in every vector width, and those that models have.
DRAWN = {"dim": (1, 5, 8, 24, 32, 64, 72, 80)}


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    q, k, v = (inputs[name].to(dtype).transpose(1, 2) for name in "qkv")
    scores = q @ k.transpose(-1, -2) * (attrs["scale"] or attrs["dim"] ** -0.5)
    return {"y": (scores.softmax(-1) @ v).transpose(1, 2).contiguous()}
