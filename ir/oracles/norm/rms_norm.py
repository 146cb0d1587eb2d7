"""Oracle of norm.rms_norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.norm.rms import normed

if TYPE_CHECKING:
    import torch


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"y": normed(inputs["x"].to(dtype), attrs["eps"]) * inputs["weight"].to(dtype)}
