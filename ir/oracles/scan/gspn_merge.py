"""Oracle of scan.gspn_merge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch

    names = ("t2b", "b2t", "l2r", "r2l")
    h, u = (torch.stack([inputs[f"{kind}_{d}"].to(dtype) for d in names]) for kind in "hu")
    y = u * h
    if attrs["skip"]:
        y = y + torch.stack([inputs[f"d_{d}"].to(dtype) for d in names]) * inputs["x"].to(dtype)
    return {"y": torch.einsum("d,dncp->ncp", inputs["merge"].to(dtype), y)}
