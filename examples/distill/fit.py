"""The one training loop: takes up where its checkpoint ends, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import data
import state
import torch
from recipe import Recipe
from torch import Tensor, nn


@dataclass(frozen=True)
class Run:
    """One seed: where its checkpoints lie, and whom to tell of each step."""

    recipe: Recipe
    seed: int
    folder: Path
    tell: Callable[[str, int], None] = lambda stage, done: None

    def fit(
        self,
        stage: str,
        module: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        steps: int,
        trained: Sequence[nn.Parameter] | None = None,
    ) -> list[float]:
        """Train `module`, or only `trained`, on loss(images [N,1,8,8], labels); the losses of all steps.

        Nothing is random but the batches, and a step's batch and rate follow from its number alone.
        """
        recipe, path = self.recipe, self.folder / f"{stage}.checkpoint"
        leaves = list(module.parameters()) if trained is None else list(trained)
        optimiser = torch.optim.AdamW(leaves, lr=recipe.rate, weight_decay=recipe.decay)
        done, losses = 0, list[float]()
        if kept := state.load(path, str(recipe)):
            done, losses = len(kept["losses"]), kept["losses"]
            module.load_state_dict(kept["module"])
            optimiser.load_state_dict(kept["optimiser"])
        train = data.splits().train
        module.train()
        self.tell(stage, done)
        for step in range(done, steps):
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * _share(step, steps)
            chosen = data.batch(step, recipe.batch, self.seed)
            value = loss(train.images[chosen], train.labels[chosen])
            optimiser.zero_grad()
            value.backward(inputs=leaves)
            optimiser.step()
            losses.append(value.item())
            self.tell(stage, step + 1)
            if (step + 1) % recipe.save_every == 0 or step + 1 == steps:
                states = {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "losses": losses}
                state.save(path, str(recipe), states)
        return losses


def _share(step: int, steps: int) -> float:
    """Of the full rate: rising for a tenth of the steps, then half a cosine down to nothing."""
    rise = max(1, steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))
