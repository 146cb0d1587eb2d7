"""Copies by engines, and clusters of blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .case import Device, Result, case, i32, integers


def _loaded(
    d: Device, x: np.ndarray, box: tuple[int, ...], at: tuple[int, ...], step: tuple[int, ...], count: tuple[int, ...],
    span: int = 0, nan: bool = False,
) -> Iterator[Result]:  # fmt: skip
    """Boxes of x; what is said of dimensions goes innermost first, as tensor maps have it."""
    rank = x.ndim
    size = int(np.prod(box))
    fives = [(*v, *([fill] * (5 - rank))) for v, fill in ((at, 0), (step, 0), (count, 1))]
    total = int(np.prod(count))
    y = d.empty((total, size), x.dtype)
    held = d.tensor_map(d.array(x), box, span, nan)
    bytes_ = size * x.itemsize
    d.launch(
        f"load_{rank}d", (2,), (64,), [held, np.array(fives, i32).tobytes(), y, i32(bytes_), i32(span)],
        shared=2 * (-(-bytes_ // 1024) * 1024),
    )  # fmt: skip
    margins = [abs(a) + s * c + b for a, s, c, b in zip(at, step, count, box, strict=True)]
    whole = np.pad(x, [(m, m) for m in margins[::-1]], constant_values=np.nan if nan else 0)
    expected = []
    for i in range(total):
        corner = []
        for a, s, c, m in zip(at, step, count, margins, strict=True):
            corner.append(a + i % c * s + m)
            i //= c
        expected.append(whole[tuple(slice(c, c + b) for c, b in zip(corner[::-1], box[::-1], strict=True))].ravel())
    yield Result(f"{rank}d span {span}", d.read(y), np.array(expected))


@case("tma_load")
def tma_1d(d: Device) -> Iterator[Result]:
    yield from _loaded(d, integers(0, 255, 500, np.uint8), (128,), (-16,), (100,), (6,))


@case("tma_load", 1, 2, 3, 4, 5, 6, 7, 8)
def tma_2d(d: Device) -> Iterator[Result]:
    yield from _loaded(d, integers(-99, 99, (20, 64), np.float32), (32, 8), (0, 0), (32, 8), (2, 3), 128)


@case("tma_load")
def tma_swizzles(d: Device) -> Iterator[Result]:
    x = integers(-99, 99, (20, 40), np.int16)
    for span in (0, 32, 64):
        yield from _loaded(d, x, ((span or 16) // 2, 16), (-3, -5), (20, 17), (2, 2), span)


@case("tma_load")
def tma_3d(d: Device) -> Iterator[Result]:
    yield from _loaded(d, integers(-99, 99, (3, 6, 12), np.float32), (8, 4, 2), (-2, 1, 0), (8, 4, 2), (2, 2, 2), nan=True)


@case("tma_load")
def tma_4d(d: Device) -> Iterator[Result]:
    yield from _loaded(
        d, integers(0, 99, (2, 3, 4, 32), np.uint8), (16, 2, 2, 1), (0, 0, -1, 1), (16, 3, 2, 1), (2, 2, 2, 1), 0
    )


@case("tma_load")
def tma_5d(d: Device) -> Iterator[Result]:
    x = integers(-99, 99, (2, 3, 2, 3, 16), np.int16)
    yield from _loaded(d, x, (16, 2, 1, 2, 2), (0, -1, 0, 1, 0), (16, 2, 1, 2, 2), (1, 2, 2, 1, 1), 32)


def _stored(d: Device, adds: bool) -> Iterator[Result]:
    x = integers(-9, 9, (40, 136), np.float32)
    y = d.array(np.ones_like(x) if adds else np.zeros_like(x))
    d.launch("store_tiles", (2,), (128,), [d.tensor_map(y, (32, 32), 128), d.array(x), i32(40), i32(136), i32(adds)])
    yield Result("y", d.read(y), 2 * x + 1 + adds)


@case("tma_store", 1, 2, 3, 4)
def tma_store(d: Device) -> Iterator[Result]:
    yield from _stored(d, False)


@case("tma_store")
def tma_add(d: Device) -> Iterator[Result]:
    yield from _stored(d, True)


@case("tma_store", 5, 6, 7)
def bulk_runs(d: Device) -> Iterator[Result]:
    x = integers(-9, 9, (3, 256), np.float32)
    y, total = d.empty(x.shape, np.float32), d.array(np.ones(256, np.float32))
    d.launch("bulk_runs", (3,), (256,), [d.array(x), y, total])
    expected = -x
    expected[:, 0] += 1
    yield Result("y", d.read(y), expected)
    yield Result("sum", d.read(total), 1 - x.sum(0))


@case("cluster", 1, 2, 3)
def cluster_histogram(d: Device) -> Iterator[Result]:
    x = integers(0, 255, 1500, np.uint8)
    counts = d.array(np.zeros(256, i32))
    d.launch("cluster_histogram", (4,), (128,), [d.array(x), counts, i32(len(x))])
    yield Result("counts", d.read(counts), np.bincount(x, minlength=256).astype(i32))


@case("cluster", 4, 5)
def cluster_sum(d: Device) -> Iterator[Result]:
    x = integers(-99, 99, 8)
    y = d.empty(8, i32)
    d.launch("cluster_sum", (8,), (32,), [d.array(x), y], cluster=4)
    yield Result("y", d.read(y), np.repeat(x.reshape(2, 4).sum(1), 4).astype(i32))


@case("cluster", 6, 7, 8, 9)
def multicast(d: Device) -> Iterator[Result]:
    x = integers(-99, 99, (4 * 16, 32), np.float32)
    y = d.empty((4, 64, 32), np.float32)
    d.launch("multicast", (4,), (64,), [d.tensor_map(d.array(x), (32, 8)), y, i32(4)])
    yield Result("y", d.read(y), np.broadcast_to(x, (4, 64, 32)))
