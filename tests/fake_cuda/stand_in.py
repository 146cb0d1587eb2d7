"""Fixtures of the cases, a plugin that run.py loads."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import fake
import pytest
import torch  # noqa: F401  # the largest of what is frozen
from fake import BUNDLE, DeviceArray, Pair

from treadle.runtime import Session, load

# Collections before and after every test find out what leaked; what is here already need not be walked each time.
gc.collect()
gc.freeze()


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    gc.collect()
    before = fake.live()
    fake.log()
    yield
    gc.collect()
    assert fake.live() == before


@pytest.fixture
def session() -> Iterator[Session]:
    with load(BUNDLE, "cuda:0") as made:
        fake.log()
        yield made


@pytest.fixture
def arrays() -> Iterator[Callable[[int, int], Pair]]:
    """Makes the bundle's input and output for a given N and P; freed at the end."""
    made: list[DeviceArray] = []

    def make(n: int, p: int) -> Pair:
        pair = DeviceArray((n, p, 32)), DeviceArray((n, 32))
        made.extend(pair)
        fake.log()
        return pair

    yield make
    for array in made:
        array.free()
