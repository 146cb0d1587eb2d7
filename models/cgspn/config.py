"""Configurations of the C-GSPN vision encoder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """Sizes of a C-GSPN encoder ("Compact GSPN", CVPR 2026, arXiv 2606.00746): a ViT whose attention is a 2-D propagation.

    `latent` is C_c, the channels that propagate. `shared_gates` gives all latent channels of a pixel one set of gates
    (G = 1, as in GSPN-2) instead of one per channel. `skip` adds the D-skip of the original GSPN, u h + d x for u h.
    `attention_every` n makes a hybrid: every n-th block, the last of them included where n divides the depth, attends with
    `heads` heads instead of propagating; 0 means none does. `max_batch` and `max_side` (pixels) bound the sizes chosen at run time.
    """

    channels: int
    latent: int
    depth: int
    mlp: int
    patch: int = 14
    eps: float = 1e-6
    shared_gates: bool = False
    skip: bool = False
    heads: int = 1
    attention_every: int = 0
    max_batch: int = 64
    max_side: int = 2058

    def attends(self, block: int) -> bool:
        """Whether a block, counted from 0, is one of attention."""
        return bool(self.attention_every) and (block + 1) % self.attention_every == 0


CONFIGS = {
    "tiny": Config(channels=192, latent=24, depth=4, mlp=768),
    "base": Config(channels=768, latent=64, depth=12, mlp=3072),
    "so400m": Config(channels=1152, latent=64, depth=27, mlp=4304),
    "tiny-hybrid": Config(channels=192, latent=24, depth=4, mlp=768, heads=6, attention_every=4),
    "so400m-hybrid": Config(channels=1152, latent=64, depth=27, mlp=4304, heads=16, attention_every=9),
}
