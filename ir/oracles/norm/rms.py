"""What the oracles of the RMS norms share: the definition, and gradients by torch's own differentiation of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Rows whose weight gradients make one part.
BLOCK = 16


def normed(u: torch.Tensor, eps: float) -> torch.Tensor:
    return u * (u.square().mean(-1, keepdim=True) + eps).rsqrt()


def gradients(
    forward: Callable[..., torch.Tensor], grad: torch.Tensor, weight: torch.Tensor, *rows: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The gradients of `rows`, and of weight in parts: each row is given a weight of its own, whose gradients are added up."""
    import torch

    leaves: Sequence[torch.Tensor] = [t.detach().clone().requires_grad_() for t in (*rows, weight.expand_as(grad))]
    *found, each = torch.autograd.grad(forward(*leaves), leaves, grad)
    padding = each.new_zeros(-len(each) % BLOCK, *each.shape[1:])
    return found, torch.cat([each, padding]).unflatten(0, (-1, BLOCK)).sum(1)
