"""Oracle of norm.rms_norm_gated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.norm.rms import normed

if TYPE_CHECKING:
    import torch


def gated(attrs: Mapping[str, Any], x: torch.Tensor, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Each group is the last axis."""
    gate = z * z.sigmoid()
    if attrs["norm_before_gate"]:
        return normed(x, attrs["eps"]) * weight * gate
    return normed(x * gate, attrs["eps"]) * weight


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"y": gated(attrs, *(inputs[name].to(dtype) for name in ("x", "z", "weight")))}
