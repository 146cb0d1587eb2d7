"""Oracle of scan.causal_conv1d: every step's window of what precedes it and itself, without the taps of other sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def convolved(
    attrs: Mapping[str, Any], x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, initial: torch.Tensor, seq: Any
) -> torch.Tensor:
    """x, initial [B,D,L]; weight [B,D,width] and bias [B,D], so that a gradient can be taken for each batch."""
    import torch
    import torch.nn.functional as F

    width = weight.shape[-1]
    window = torch.cat([initial, x], -1).unfold(-1, width, 1)
    if seq is not None:
        ids = torch.cat([seq[:, :1].expand(-1, width - 1), seq], 1).unfold(1, width, 1)
        window = torch.where((ids == ids[..., -1:])[:, None], window, 0)
    y = (window * weight[:, :, None]).sum(-1) + bias[..., None]
    return F.silu(y) if attrs["activation"] == "silu" else y


def channels_first(attrs: Mapping[str, Any], t: torch.Tensor) -> torch.Tensor:
    return t if attrs["layout"] == "bdl" else t.transpose(1, 2)


def operands(attrs: Mapping[str, Any], dtype: torch.dtype, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """x, weight, bias, initial as `convolved` takes them."""
    batch = len(inputs["x"])
    x, initial = (channels_first(attrs, inputs[name].to(dtype)) for name in ("x", "initial"))
    weight, bias = inputs["weight"].to(dtype).T, inputs["bias"].to(dtype)
    return [x, weight.expand(batch, -1, -1), bias.expand(batch, -1), initial]


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    y = convolved(attrs, *operands(attrs, dtype, inputs), inputs.get("seq_idx"))
    return {"y": channels_first(attrs, y)}
