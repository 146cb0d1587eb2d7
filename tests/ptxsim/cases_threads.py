"""Threads, warps and blocks: sums, scans, transposes, divergence, shuffles and votes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .case import Device, Result, case, i32, integers


@case("reduce", 1, 2, 3)
def block_sums(d: Device) -> Iterator[Result]:
    x = integers(-9, 9, 1000, np.float32)
    y = d.empty(3, np.float32)
    d.launch("block_sums", (3,), (128,), [d.array(x), y, i32(len(x))])
    share = np.arange(len(x)) // 128 % 3
    yield Result("y", d.read(y), np.array([x[share == b].sum() for b in range(3)], np.float32))


@case("reduce", 4, 5, 6)
def whole_sum(d: Device) -> Iterator[Result]:
    x = integers(-9, 9, 1000, np.float32)
    arrived, y = d.array(np.zeros(1, np.uint32)), d.empty(1, np.float32)
    d.launch("whole_sum", (5,), (96,), [d.array(x), d.empty(5, np.float32), arrived, y, i32(len(x))])
    yield Result("y", d.read(y), x.sum(keepdims=True))
    yield Result("arrived", d.read(arrived), np.zeros(1, np.uint32))


@case("histogram", 1, 2, 3, 4, 5)
def histogram(d: Device) -> Iterator[Result]:
    x = integers(0, 255, 1500, np.uint8)
    counts = d.array(np.zeros(256, i32))
    d.launch("histogram", (3,), (128,), [d.array(x), counts, i32(len(x))])
    yield Result("counts", d.read(counts), np.bincount(x, minlength=256).astype(i32))


@case("scan", 1, 2, 3)
def scan_rows(d: Device) -> Iterator[Result]:
    x = integers(-99, 99, (3, 300))
    y = d.empty(x.shape, i32)
    d.launch("scan_rows", (3,), (128,), [d.array(x), y, i32(300)])
    yield Result("y", d.read(y), np.cumsum(x, 1, dtype=i32))


@case("scan", 4)
def blelloch(d: Device) -> Iterator[Result]:
    x = integers(-99, 99, (2, 128))
    y = d.empty(x.shape, i32)
    d.launch("blelloch", (2,), (64,), [d.array(x), y, i32(128)], shared=128 * 4)
    yield Result("y", d.read(y), np.cumsum(x, 1, dtype=i32))


@case("transpose", 1, 2, 3)
def transpose(d: Device) -> Iterator[Result]:
    x = integers(-999, 999, (70, 45), np.float32)
    y = d.empty((45, 70), np.float32)
    d.launch("transpose", (2, 3), (32, 8), [d.array(x), y, i32(70), i32(45)])
    yield Result("y", d.read(y), x.T)


@case("transpose", 4)
def transpose_fours(d: Device) -> Iterator[Result]:
    x = integers(-999, 999, (64, 96), np.float32)
    y = d.empty((96, 64), np.float32)
    d.launch("transpose_fours", (3, 2), (8, 32), [d.array(x), y, i32(64), i32(96)])
    yield Result("y", d.read(y), x.T)


@case("warp", 1, 2)
def reverse_warps(d: Device) -> Iterator[Result]:
    x = integers(-999, 999, 256)
    y = d.empty(256, i32)
    d.launch("reverse_warps", (2,), (128,), [d.array(x), y])
    turned = x.reshape(-1, 32)[:, ::-1] + np.arange(32, dtype=i32)
    yield Result("y", d.read(y), np.roll(turned, -1, 1).ravel())


@case("warp")
def lanes(d: Device) -> Iterator[Result]:
    x = integers(0, 9, 96)
    x[32:64] = integers(0, 7, 32, seed=1) & ~1  # a warp without odd values, all below 8
    y = d.empty((96, 5), i32)
    d.launch("lanes", (1,), (96,), [d.array(x), y])
    bits = 1 << np.arange(32, dtype=np.uint64)
    lane = np.arange(32)
    expected = []
    for v in x.reshape(3, 32):
        odd = v % 2 == 1
        ballot = bits[odd].sum()
        match = np.array([bits[v == each].sum() for each in v])
        reduced = np.where(odd, v[odd].sum(), v[~odd].max(initial=-99))
        moved = v[np.where(lane % 8 + 3 < 8, lane + 3, lane)] + 1000 * v[lane // 16 * 16 + lane // 2 % 16]
        votes = int((v < 8).all()) + 2 * int((v == 5).any())
        expected.append(np.stack([np.full(32, ballot), match, reduced, moved, np.full(32, votes)], 1))
    yield Result("y", d.read(y), np.concatenate(expected).astype(np.uint32).view(i32))


@case("warp", 3)
def tickets(d: Device) -> Iterator[Result]:
    x = integers(0, 99, 256)
    asks = np.flatnonzero(x % 3 == 0).astype(i32)
    taken, counter = d.empty(len(asks), i32), d.array(np.zeros(1, i32))
    d.launch("tickets", (2,), (128,), [d.array(x), taken, counter])
    yield Result("taken", np.sort(d.read(taken)), asks)
    yield Result("counter", d.read(counter), np.array([len(asks)], i32))


@case("control")
def collatz(d: Device) -> Iterator[Result]:
    x = integers(1, 60, 150)
    steps = d.empty(150, i32)
    d.launch("collatz", (2,), (96,), [d.array(x), steps, i32(150)])
    expected = np.zeros(150, i32)
    for i, v in enumerate(x.tolist()):
        while v != 1 and expected[i] < 100:
            v = 3 * v + 1 if v % 2 else v // 2
            expected[i] += 1
    yield Result("steps", d.read(steps), expected)


def _chosen(v: int, y: int) -> int:
    """What a thread of `choose` makes of its number."""
    bits, low, mixed = f"{v:032b}", v & 15, v
    for _ in range(v % 7):
        mixed ^= mixed << 3 & 0xFFFFFFFF
    ways = {
        0: v * v, 1: v + y, 2: bits.index("1"), 3: mixed, 4: bits.count("1"), 5: v // 3, 6: v % 5, 7: -v,
        8: int(bits[::-1], 2), 9: max(v, 77), 10: (v | 1) * 3, 11: v * 3,
    }  # fmt: skip
    return v if low == 12 else ways.get(low, 9) + 1


@case("control")
def choose(d: Device) -> Iterator[Result]:
    x, before = integers(1, 999, 200), integers(-99, 99, 200, seed=1)
    y = d.array(before)
    d.launch("choose", (2,), (128,), [d.array(x), y, i32(200)])
    expected = [_chosen(v, w) & 0xFFFFFFFF for v, w in zip(x.tolist(), before.tolist(), strict=True)]
    yield Result("y", d.read(y), np.array(expected, np.uint32).view(i32))


@case("control", 1, 7)
def windows(d: Device) -> Iterator[Result]:
    x = integers(-9, 9, 100, np.float32)
    y = d.empty(100, np.float32)
    d.launch("windows", (2,), (64,), [d.array(x), y, i32(100)])
    expected = np.zeros(100, np.float32)
    for i in range(100):
        seen = x[(i + np.arange(8)) % 100]
        expected[i] = np.polyval([3, 0, -2, 1][3 - i % 4 :], x[i]) + seen.max() - seen.min()
    yield Result("y", d.read(y), expected)


@case("control", 2, 3)
def halves(d: Device) -> Iterator[Result]:
    x = integers(-99, 99, (2, 2, 64))
    y = d.empty((2, 2), i32)
    d.launch("halves", (2,), (128,), [d.array(x), y], shared=128 * 4)
    yield Result("y", d.read(y), np.stack([x[:, 0].sum(1), x[:, 1].max(1)], 1).astype(i32))


@case("control", 4)
def hand_over(d: Device) -> Iterator[Result]:
    x = integers(-99, 99, 32)
    y = d.empty(96, i32)
    d.launch("hand_over", (1,), (128,), [d.array(x), y])
    yield Result("y", d.read(y), np.concatenate([x, 2 * x, 3 * x]))


@case("control", 5, 6)
def smooth(d: Device) -> Iterator[Result]:
    x = integers(-99, 99, 200)
    y = d.empty(200, i32)
    d.launch("smooth", (2,), (128,), [d.array(x), y, i32(200)])
    yield Result("y", d.read(y), np.convolve(x, [1, 2, 1], "same").astype(i32))
