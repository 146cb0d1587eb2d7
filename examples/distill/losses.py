"""How far a student's features are from its teacher's."""

from __future__ import annotations

from collections.abc import Sequence

from model import Tap
from recipe import Recipe
from torch import Tensor
from torch.nn import functional as F


def unlike(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error over the variance of the teacher's: 1 for a student that only knows the mean."""
    return F.mse_loss(student, teacher) / teacher.var()


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(P(student) || P(teacher)) of softmaxes over channels, the mean over tokens."""
    mine, theirs = student.log_softmax(-1), teacher.log_softmax(-1)
    return (mine.exp() * (mine - theirs)).sum(-1).mean()


def distance(student: Sequence[Tap], teacher: Sequence[Tap], recipe: Recipe) -> Tensor:
    """alpha L_PP + beta L_PB, each the mean over blocks of MSE + lambda_1 KL."""

    def tap(mine: Tensor, theirs: Tensor) -> Tensor:
        return unlike(mine, theirs) + recipe.divergence * divergence(mine, theirs)

    pairs = list(zip(student, teacher, strict=True))
    sublayers = sum(tap(s.sublayer, t.sublayer) for s, t in pairs)
    blocks = sum(tap(s.block, t.block) for s, t in pairs)
    return (recipe.alpha * sublayers + recipe.beta * blocks) / len(pairs)
