"""Oracle of scan.causal_conv1d: each sequence on its own, by torch's convolution of what precedes it and itself."""

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

    width, rows = weight.shape[-1], []
    for b in range(x.shape[0]):
        whole = torch.cat([initial[b], x[b]], -1)
        if seq is None:
            rows.append(_taps(whole, weight[b], bias[b]))
            continue
        ids = torch.cat([seq[b, :1].expand(width - 1), seq[b]]).unfold(-1, width, 1)
        window = torch.where(ids == ids[:, -1:], whole.unfold(-1, width, 1), 0)
        rows.append((window * weight[b][:, None]).sum(-1) + bias[b][:, None])
    y = torch.stack(rows)
    return F.silu(y) if attrs["activation"] == "silu" else y


def _taps(whole: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    import torch.nn.functional as F

    return F.conv1d(whole[None], weight[:, None], bias, groups=len(weight))[0]


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
