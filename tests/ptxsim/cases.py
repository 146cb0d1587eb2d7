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


# ---- threads, warps and blocks


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


# ---- arithmetic


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


# ---- matrices


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


# ---- copies


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


# ---- clusters


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
