"""Oracle of scan.causal_conv1d_adjoint: the definition differentiated by torch, the output of one part at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.scan.causal_conv1d import channels_first, convolved, operands

if TYPE_CHECKING:
    import torch

#: Steps whose weight gradients make one part.
CHUNK = 256


def oracle(attrs: Mapping[str, Any], dtype: torch.dtype, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch

    leaves = [t.detach().clone().requires_grad_() for t in operands(attrs, dtype, inputs)]
    y = convolved(attrs, *leaves, inputs.get("seq_idx"))
    dy = channels_first(attrs, inputs["dy"].to(dtype))
    dx, *_, dinitial = torch.autograd.grad(y, leaves, dy, retain_graph=True)
    parts = []
    for first in range(0, y.shape[-1], CHUNK):
        here = torch.zeros_like(dy)
        here[..., first : first + CHUNK] = dy[..., first : first + CHUNK]
        parts.append(torch.autograd.grad(y, leaves[1:3], here, retain_graph=True))
    dweight, dbias = (torch.stack(each, 1) for each in zip(*parts, strict=True))
    first_two = {name: channels_first(attrs, t) for name, t in {"dx": dx, "dinitial": dinitial}.items()}
    return {**first_two, "dweight": dweight.transpose(2, 3), "dbias": dbias}
