"""Arithmetic and conversions of every width, and the approximations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .case import Device, Result, bf16, case, e4m3, i32, integers


@case("arith", 1)
def saxpy(d: Device) -> Iterator[Result]:
    x, y = (integers(-99, 99, 700, np.float32, s) / 8 for s in (0, 1))
    out = d.array(y)
    d.launch("saxpy", (2,), (128,), [np.float32(2.5), d.array(x), out, i32(700)])
    yield Result("y", d.read(out), np.float32(2.5) * x + y)


@case("arith", 2)
def saxpy_fours(d: Device) -> Iterator[Result]:
    x, y = (integers(-99, 99, 700, np.float32, s) / 8 for s in (0, 1))
    out = d.array(y)
    d.launch("saxpy_fours", (2,), (128,), [np.float32(2.5), d.array(x), out, i32(700)])
    yield Result("y", d.read(out), np.float32(2.5) * x + y)


def _pairs(d: Device, kernel: str, dtype: Any, high: int, unit: float, expected: Callable[..., np.ndarray]) -> Iterator[Result]:
    x, y = ((integers(-high, high, 400, np.float32, s) * unit).astype(dtype) for s in (0, 1))
    z = d.empty(400, dtype)
    count = 400 if dtype == np.float64 else 200
    d.launch(kernel, (-(-count // 64),), (64,), [d.array(x), d.array(y), z, i32(count)])
    yield Result("z", d.read(z), expected(x.astype(np.float64), y.astype(np.float64)).astype(dtype))


@case("arith")
def fp16(d: Device) -> Iterator[Result]:
    yield from _pairs(d, "halves_of", np.float16, 32, 1 / 8, lambda x, y: np.maximum(x * y + x, x - y))


@case("arith")
def brain(d: Device) -> Iterator[Result]:
    yield from _pairs(d, "brains_of", bf16, 8, 1, lambda x, y: np.minimum(x * y + y, x * y))


@case("arith")
def fp64(d: Device) -> Iterator[Result]:
    yield from _pairs(d, "doubles_of", np.float64, 99, 1, lambda x, y: np.sqrt(np.abs(x * y + 1)) / (1 + y * y))


@case("arith")
def converted(d: Device) -> Iterator[Result]:
    x = (np.random.default_rng(0).normal(size=500) * 60).astype(np.float32)
    kinds = (np.float16, bf16, e4m3, i32, np.int8, np.int64, np.float32)
    out = [d.empty(500, k if k is not e4m3 else np.uint8) for k in kinds]
    d.launch("converted", (4,), (128,), [d.array(x), *out, i32(500)])
    h, b, e = x.astype(np.float16), x.astype(bf16), x.astype(e4m3)
    whole = np.rint(x).astype(i32)
    scaled = np.floor(x * np.float32(1e6)).astype(np.int64)
    back = h.astype(np.float32) + b.astype(np.float32) + e.astype(np.float32)
    expected = (h, b, e.view(np.uint8), whole, whole.astype(np.int8), scaled, back)
    for name, got, right in zip(("half", "bfloat", "e4m3", "s32", "s8", "s64", "back"), out, expected, strict=True):
        yield Result(name, d.read(got), right)


@case("arith")
def approximated(d: Device) -> Iterator[Result]:
    x = np.random.default_rng(0).uniform(-3, 3, 300).astype(np.float32)
    y = d.empty((300, 4), np.float32)
    d.launch("approximated", (3,), (128,), [d.array(x), y, i32(300)])
    v = x.astype(np.float64)
    expected = np.stack([np.exp(v), (v * v + 1) ** -0.5, np.tanh(v) / (1 + np.exp(-v)), np.sin(v) * np.log1p(v * v)], 1)
    bound = 2.0**-20 * np.abs(expected) + [0, 0, 0, 2.0**-18]  # __sinf: 2^-20.9 of 1, times log1p(9)
    yield Result("y", d.read(y), expected, bound, exact=False)
