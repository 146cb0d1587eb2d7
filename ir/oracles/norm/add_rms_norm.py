"""Oracle of norm.add_rms_norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.norm.rms import normed

if TYPE_CHECKING:
    import torch


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    total = inputs["x"].to(dtype) + inputs["residual"].to(dtype)
    return {"y": normed(total, attrs["eps"]) * inputs["weight"].to(dtype), "sum": total}
