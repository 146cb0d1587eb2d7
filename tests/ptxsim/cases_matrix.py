"""Matrix products: mma, wgmma, warp roles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .case import Device, Result, bf16, case, e4m3, i32, integers


@case("gemm_mma", 1, 2, 3)
def gemm_mma(d: Device) -> Iterator[Result]:
    a, b = integers(-3, 3, (128, 96), bf16), integers(-3, 3, (96, 64), bf16, 1)
    c = d.empty((128, 64), np.float32)
    d.launch("gemm_mma", (1, 2), (128,), [d.array(a), d.array(b), c, i32(64), i32(96)])
    yield Result("c", d.read(c), a.astype(np.float32) @ b.astype(np.float32))


@case("gemm_mma")
def gemm_mma_rounded(d: Device) -> Iterator[Result]:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(64, 64)).astype(bf16), rng.normal(size=(64, 128)).astype(bf16)
    c = d.empty((64, 128), np.float32)
    d.launch("gemm_mma", (2, 1), (128,), [d.array(a), d.array(b), c, i32(128), i32(64)])
    yield from _product("c", d.read(c), a, b)


def _product(name: str, got: np.ndarray, a: np.ndarray, b: np.ndarray) -> Iterator[Result]:
    """Each of the k additions of mma loses at most an ulp of what the absolute values add up to."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    bound = len(right) * 2.0**-23 * (np.abs(left) @ np.abs(right))
    yield Result(name, got, left @ right, bound, exact=False)


def _multiplied(
    d: Device, kernel: str, span: int, groups: int = 1, a_mn: bool = False, b_mn: bool = False, dtype: Any = bf16, k: int = 128
) -> Iterator[Result]:
    m, n, size = 64 * groups * (2 if groups == 1 else 1), 128, np.dtype(dtype).itemsize
    a, b = integers(-3, 3, (m, k), dtype), integers(-3, 3, (k, n), dtype, 1)
    c = d.empty((m, n), np.float32)
    maps = []
    for matrix in (a.T if a_mn else a, b if b_mn else b.T):
        held = d.array(np.ascontiguousarray(matrix).view(np.uint8) if dtype is e4m3 else np.ascontiguousarray(matrix))
        maps.append(d.tensor_map(held, ((span or 16) // size, 64), span))
    d.launch(kernel, (n // 64, m // 64 // groups), (128 * groups,), [*maps, c, i32(n), i32(k)], shared=8192 * (1 + groups))
    yield Result("c", d.read(c), a.astype(np.float32) @ b.astype(np.float32))


@case("wgmma", 1, 2, 3, 4)
def wgmma(d: Device) -> Iterator[Result]:
    yield from _multiplied(d, "wgmma_128", 128, k=192)


@case("wgmma")
def wgmma_two_groups(d: Device) -> Iterator[Result]:
    yield from _multiplied(d, "wgmma_128", 128, groups=2)


@case("wgmma")
def wgmma_swizzles(d: Device) -> Iterator[Result]:
    for span in (64, 32, 0):
        yield from _multiplied(d, f"wgmma_{span}", span)


@case("wgmma")
def wgmma_mn_major(d: Device) -> Iterator[Result]:
    yield from _multiplied(d, "wgmma_b_mn_128", 128, b_mn=True)
    yield from _multiplied(d, "wgmma_b_mn_64", 64, b_mn=True)
    yield from _multiplied(d, "wgmma_a_mn_32", 32, a_mn=True)
    yield from _multiplied(d, "wgmma_mn_0", 0, a_mn=True, b_mn=True)


@case("wgmma", 9)
def wgmma_a_in_registers(d: Device) -> Iterator[Result]:
    yield from _multiplied(d, "wgmma_registers", 128)
    yield from _multiplied(d, "wgmma_registers_mn", 64, groups=2, b_mn=True)


@case("wgmma")
def wgmma_fp8(d: Device) -> Iterator[Result]:
    yield from _multiplied(d, "wgmma_e4m3_128", 128, dtype=e4m3, k=256)
    yield from _multiplied(d, "wgmma_e4m3_32", 32, groups=2, dtype=e4m3)


@case("wgmma", 5, 6, 7, 8)
def wgmma_by_hand(d: Device) -> Iterator[Result]:
    a, b = (np.random.default_rng(s).normal(size=(64, 64)).astype(bf16) for s in (0, 1))
    c = d.empty((64, 64), np.float32)
    d.launch("wgmma_by_hand", (1,), (128,), [d.array(a), d.array(b), c])
    yield from _product("c", d.read(c), a, b.T)


@case("gemm_ws", 1, 2, 3, 4, 5, 6, 7, 8)
def gemm_ws(d: Device) -> Iterator[Result]:
    m, n, k = 256, 128, 256
    a, b = integers(-1, 1, (m, k), bf16), integers(-1, 1, (n, k), bf16, 1)
    c = d.empty((m, n), bf16)
    maps = [d.tensor_map(x, (64, 64), 128) for x in (d.array(a), d.array(b), c)]
    stages = 3 * (128 + 64) * 64 * 2 + 2 * 64 * 64 * 2
    d.launch("gemm_ws", (2,), (384,), [*maps, i32(m), i32(n), i32(k)], shared=stages + 6 * 8)
    yield Result("c", d.read(c), (a.astype(np.float32) @ b.astype(np.float32).T).astype(bf16))
