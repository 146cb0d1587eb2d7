"""The C-GSPN encoder in plain torch: independent of every Program, on purpose, and as slow as it is plain.

Takes the state dict that the bundle's weights are saved under, and computes in the dtype it is asked for: float64 for the
truth, float32 for the error that a correct float32 evaluation has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from treadle.models.cgspn.config import Config

if TYPE_CHECKING:
    import torch

DIRECTIONS = ("t2b", "b2t", "l2r", "r2l")


def encode(
    weights: Mapping[str, torch.Tensor],
    image: torch.Tensor,
    config: Config,
    dtype: torch.dtype,
    storage: torch.dtype | None = None,
) -> dict[str, torch.Tensor]:
    """image [N,3,H,W] -> features [N,C,H/patch,W/patch], pooled [N,C], and the norm of the tokens after each block.

    Values that a model of dtype `storage` keeps in memory between its operations are rounded to it (default: not rounded).
    """
    import torch
    from torch.nn import functional as F

    w = {name: tensor.to(dtype) for name, tensor in weights.items()}

    def stored(x: torch.Tensor) -> torch.Tensor:
        return x.to(storage).to(dtype) if storage else x

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return stored(F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], config.eps))

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def conv1x1(name: str, x: torch.Tensor) -> torch.Tensor:
        return stored(F.conv2d(x, w[f"{name}.weight"][:, :, None, None], w[f"{name}.bias"]))

    def propagated(block: str, tokens: torch.Tensor) -> torch.Tensor:
        z = stored(linear(f"{block}down", tokens)).permute(0, 3, 1, 2)
        y = torch.zeros_like(z)
        for k, d in enumerate(DIRECTIONS):
            logits = conv1x1(f"{block}gates.{d}", z).unflatten(1, (3, -1))
            h = stored(_propagate(z, conv1x1(f"{block}lam.{d}", z), logits, d, stored))
            term = conv1x1(f"{block}u.{d}", z) * h
            if config.skip:
                term = term + conv1x1(f"{block}d.{d}", z) * z
            y = y + w[f"{block}merge"][k] * term
        return stored(y).permute(0, 2, 3, 1)

    def attended(block: str, tokens: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            stored(linear(f"{block}{name}", tokens)).flatten(1, 2).unflatten(-1, (config.heads, -1)).transpose(1, 2)
            for name in "qkv"
        )
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return stored((scores.softmax(-1) @ v).transpose(1, 2)).reshape(tokens.shape)

    x = stored(F.conv2d(image.to(dtype), w["patch_embed.weight"], w["patch_embed.bias"], stride=config.patch))
    x = x.permute(0, 2, 3, 1)
    norms = [x.norm()]
    for i in range(config.depth):
        block = f"blocks.{i}."
        if config.attends(i):
            x = stored(x + linear(f"{block}proj", attended(block, norm(f"{block}norm1", x))))
        else:
            x = stored(x + linear(f"{block}up", propagated(block, norm(f"{block}norm1", x))))
        hidden = stored(F.gelu(linear(f"{block}fc1", norm(f"{block}norm2", x)), approximate="tanh"))
        x = stored(x + linear(f"{block}fc2", hidden))
        norms.append(x.norm())
    features = norm("norm", x).permute(0, 3, 1, 2)
    return {"features": features, "pooled": stored(features.mean((2, 3))), "norms": torch.stack(norms)}


def _propagate(
    x: torch.Tensor,
    lam: torch.Tensor,
    logits: torch.Tensor,
    direction: str,
    stored: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """One direction of the scan on [N,C,H,W], by turning it into a walk over the last axis with lines along the first."""
    import torch

    walk_w = direction in ("l2r", "r2l")
    backward = direction in ("b2t", "r2l")

    def turn(t: torch.Tensor) -> torch.Tensor:
        t = t if walk_w else t.transpose(-1, -2)
        return t.flip(-1) if backward else t

    x, lam, logits = turn(x), turn(lam), turn(logits)
    length, steps = x.shape[-2:]
    s = torch.sigmoid(logits)
    present = torch.ones_like(s, dtype=torch.bool)
    present[:, 0, :, 0] = False
    present[:, 2, :, length - 1] = False
    s = torch.where(present, s, 0)
    gates = stored(s / s.sum(1, keepdim=True).clamp_min(1e-7))

    h = torch.zeros_like(x[..., 0])
    columns = []
    for t in range(steps):
        above = torch.nn.functional.pad(h, (1, 0))[..., :length]
        below = torch.nn.functional.pad(h, (0, 1))[..., 1:]
        g = gates[..., t]
        h = lam[..., t] * x[..., t] + g[:, 0] * above + g[:, 1] * h + g[:, 2] * below
        columns.append(h)
    out = torch.stack(columns, -1)
    out = out.flip(-1) if backward else out
    return out if walk_w else out.transpose(-1, -2)
