"""A vision transformer whose mixer can be exchanged: attention for the teacher, C-GSPN's propagation for the student.

Tokens are [N,H,W,C] throughout. A block is x + mixer(norm1 x), then x + mlp(norm2 x).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from recipe import Recipe
from torch import Tensor, nn
from torch.nn import functional as F

import treadle.torch as tt

CLASSES = 10
DIRECTIONS = 4


class Tap(NamedTuple):
    """Where teacher and student are compared: what a sub-layer gives before its residual, and what its block gives."""

    sublayer: Tensor
    block: Tensor


class Attention(nn.Module):
    """All tokens with all."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.qkv = nn.Linear(recipe.channels, 3 * recipe.channels)
        self.out = nn.Linear(recipe.channels, recipe.channels)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        q, k, v = self.qkv(x).view(n, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(n, h, w, c))


class Propagation(nn.Module):
    """P_up(Prop2D(P_down x)): factors, gates and output gates are 1x1 convolutions of the latent planes."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        latent = recipe.latent
        self.down = nn.Linear(recipe.channels, latent)
        self.lam = nn.Conv2d(latent, DIRECTIONS * latent, 1)
        self.u = nn.Conv2d(latent, DIRECTIONS * latent, 1)
        self.logits = nn.Conv2d(latent, DIRECTIONS * 3, 1)  # G = 1: one set of gates for all channels
        self.merge = nn.Parameter(torch.full((DIRECTIONS,), 1 / DIRECTIONS))
        self.up = nn.Linear(latent, recipe.channels)

    def forward(self, x: Tensor) -> Tensor:
        z = self.down(x).permute(0, 3, 1, 2).contiguous()
        lam, u = (made(z).unflatten(1, (DIRECTIONS, -1)) for made in (self.lam, self.u))
        y = tt.gspn2d(z, lam, self.logits(z).unflatten(1, (DIRECTIONS, 3, 1)), u, merge=self.merge)
        return self.up(y.permute(0, 2, 3, 1))


class Block(nn.Module):
    def __init__(self, recipe: Recipe, mixer: Callable[[Recipe], nn.Module]) -> None:
        super().__init__()
        c = recipe.channels
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.mixer = mixer(recipe)
        self.mlp = nn.Sequential(nn.Linear(c, recipe.mlp), nn.GELU(), nn.Linear(recipe.mlp, c))

    def forward(self, x: Tensor) -> Tap:
        y = self.mixer(self.norm1(x))
        x = x + y
        return Tap(y, x + self.mlp(self.norm2(x)))


class Encoder(nn.Module):
    """The shell. Only attention needs to be told where a token stands: a propagation starts at the borders."""

    def __init__(self, recipe: Recipe, mixer: Callable[[Recipe], nn.Module]) -> None:
        super().__init__()
        c, grid = recipe.channels, recipe.side // recipe.patch
        self.patches = nn.Conv2d(1, c, recipe.patch, stride=recipe.patch)
        self.position = nn.Parameter(torch.randn(grid, grid, c) * 0.02) if mixer is Attention else None
        self.blocks = nn.ModuleList(Block(recipe, mixer) for _ in range(recipe.depth))
        self.norm = nn.LayerNorm(c)
        self.head = nn.Linear(c, CLASSES)

    def embed(self, images: Tensor) -> Tensor:
        x = self.patches(images).permute(0, 2, 3, 1)
        return x if self.position is None else x + self.position

    def taps(self, images: Tensor) -> list[Tap]:
        x, taps = self.embed(images), []
        for block in self.blocks:
            taps.append(block(x))
            x = taps[-1].block
        return taps

    def read(self, tokens: Tensor) -> Tensor:
        """Scores of the classes from the last block's tokens."""
        return self.head(self.norm(tokens).mean((1, 2)))

    def forward(self, images: Tensor) -> Tensor:
        return self.read(self.taps(images)[-1].block)


class Adapter(nn.Module):
    """x + MLP(x), which is x at first: the second stage starts where the first ended."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.into, self.back = nn.Linear(recipe.channels, recipe.adapter), nn.Linear(recipe.adapter, recipe.channels)
        nn.init.zeros_(self.back.weight)
        nn.init.zeros_(self.back.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(F.gelu(self.into(x)))


class Student(nn.Module):
    """An encoder seen through an adapter at every tap. The last one stays, before the head, which is the teacher's."""

    def __init__(self, recipe: Recipe, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.sublayers = nn.ModuleList(Adapter(recipe) for _ in encoder.blocks)
        self.blocks = nn.ModuleList(Adapter(recipe) for _ in encoder.blocks)

    def taps(self, images: Tensor) -> list[Tap]:
        seen = zip(self.sublayers, self.blocks, self.encoder.taps(images), strict=True)
        return [Tap(sublayer(tap.sublayer), block(tap.block)) for sublayer, block, tap in seen]

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.read(self.blocks[-1](self.encoder.taps(images)[-1].block))


def student_of(recipe: Recipe, teacher: Encoder) -> Encoder:
    """The teacher's patches, norms, MLPs and head around propagations that know nothing yet."""
    student = Encoder(recipe, Propagation)
    kept = {k: v for k, v in teacher.state_dict().items() if ".mixer." not in k and k != "position"}
    missing, unexpected = student.load_state_dict(kept, strict=False)
    assert all(".mixer." in k for k in missing) and not unexpected
    return student
