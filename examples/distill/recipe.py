"""Every number of the recipe, in one place. What the papers do not say, and we chose, is marked "ours"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Sizes, steps of each stage, and the weights of the losses. All but depth and widths of the paper are ours."""

    channels: int = 48
    heads: int = 3
    depth: int = 3
    mlp: int = 96
    latent: int = 16  # C_c; the paper has 1152 / 64
    patch: int = 2
    side: int = 16  # pixels, of digits that have 8
    raised: tuple[int, ...] = (24, 32)

    batch: int = 32
    teacher: int = 1200  # steps
    sublayers: int = 400  # stage 1
    whole: int = 800  # stage 2; from scratch takes as many as stages 1 and 2 together
    raising: int = 150  # for each further side
    rate: float = 1e-3  # of AdamW, cosine to zero after a tenth of the steps
    decay: float = 0.05

    alpha: float = 1.0  # of the taps after the sub-layers
    beta: float = 1.0  # of the taps after the blocks
    divergence: float = 0.1  # lambda_1
    adapter: int = 48  # hidden width

    save_every: int = 100  # steps between checkpoints


FULL = Recipe()
#: The same path in seconds, for the tests: too short to learn much.
QUICK = Recipe(
    channels=16, heads=2, depth=2, mlp=32, latent=4, side=8, raised=(12,), batch=32, teacher=20, sublayers=12, whole=16,
    raising=8, adapter=16, save_every=4,
)  # fmt: skip
