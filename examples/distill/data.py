"""The handwritten digits of scikit-learn: 1797 grey images of 8x8, split once for all seeds, enlarged bilinearly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

#: Images held back: those that results are quoted of, which nothing is fitted to or chosen by, and those to tune a recipe on.
TEST, VALIDATION = 500, 250


class Digits(NamedTuple):
    """Images [N,1,8,8] between -1 and 1, and what they show."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Splits:
    train: Digits
    validation: Digits
    test: Digits


@cache
def splits() -> Splits:
    """Every digit is as frequent in each part as in the whole."""
    raw = load_digits()
    labels = torch.from_numpy(raw.target).long()
    images = torch.from_numpy(raw.images).float()[:, None] / 8 - 1
    rest, test = train_test_split(range(len(labels)), test_size=TEST, stratify=labels, random_state=0)
    train, validation = train_test_split(rest, test_size=VALIDATION, stratify=labels[rest], random_state=0)
    return Splits(*(Digits(images[part], labels[part]) for part in (train, validation, test)))


def enlarged(images: Tensor, side: int) -> Tensor:
    """Bilinear, corners apart: a pixel becomes a patch of the same middle."""
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def batch(step: int, size: int, seed: int) -> Tensor:
    """The indices of one step: epochs are shuffles of their own, so that a step's batch hangs on nothing before it."""
    count = len(splits().train.labels)
    epoch, place = divmod(step, count // size)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
    return order[place * size : (place + 1) * size]
