"""What our test kernels are called with and what must come out: the same for the machine and for a GPU.

Numbers are small integers, or fractions of a power of two, wherever that makes every sum exact: then any order of summation
must give the same bits, and one wrong element shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np

bf16, e4m3 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn
i32 = np.int32


class Device(Protocol):
    """Where a case runs: the machine, or a GPU."""

    def array(self, values: np.ndarray) -> Any: ...
    def empty(self, shape: tuple[int, ...] | int, dtype: Any) -> Any: ...
    def read(self, array: Any) -> np.ndarray: ...
    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: list[Any], shared: int = 0, cluster: int = 0
    ) -> None: ...
    def tensor_map(self, array: Any, box: tuple[int, ...], span: int = 0, nan: bool = False) -> bytes: ...


@dataclass(frozen=True)
class Result:
    """`within` bounds the difference, element by element; without it all bits must agree. `exact`: the same bits on any device."""

    name: str
    got: np.ndarray
    expected: np.ndarray
    within: np.ndarray | None = None
    exact: bool = True


@dataclass(frozen=True)
class Case:
    """`bugs`: those of its source that it must catch."""

    name: str
    source: str
    run: Callable[[Device], Iterator[Result]]
    bugs: tuple[int, ...] = ()


CASES: dict[str, Case] = {}


def case(source: str, *bugs: int) -> Callable[[Callable[[Device], Iterator[Result]]], Callable[[Device], Iterator[Result]]]:
    def add(run: Callable[[Device], Iterator[Result]]) -> Callable[[Device], Iterator[Result]]:
        CASES[run.__name__] = Case(run.__name__, source, run, bugs)
        return run

    return add


def integers(low: int, high: int, shape: tuple[int, ...] | int, dtype: Any = i32, seed: int = 0) -> np.ndarray:
    """Of low..high, both included."""
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(dtype)
