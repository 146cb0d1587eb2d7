"""Oracle of norm.layer_norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch.nn.functional as F

    x, weight, bias = (inputs[name].to(dtype) for name in ("x", "weight", "bias"))
    return {"y": F.layer_norm(x, (x.shape[-1],), weight, bias, attrs["eps"])}
