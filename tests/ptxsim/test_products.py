"""Whole products: random matrices put into registers by the ISA's formulas, multiplied, taken out again, against A @ B + C."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from treadle.codegen.ptxsim import products

DTYPES = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "tf32": np.float32,
    "f32": np.float32,
    "f64": np.float64,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "s8": np.int8,
    "u8": np.uint8,
    "s32": np.int32,
}


def _draw(rng: np.random.Generator, shape: tuple[int, int], type: str) -> np.ndarray:
    if type in ("s8", "u8", "s32"):
        low, high = {"s8": (-128, 128), "u8": (0, 256), "s32": (-(2**31), 2**31)}[type]
        return rng.integers(low, high, shape).astype(DTYPES[type])
    values = rng.normal(size=shape).astype(DTYPES[type])
    return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) if type == "tf32" else values


def _pack(matrix: np.ndarray, place, count: int, lanes: int) -> np.ndarray:
    """Registers by `place(lane, i) -> (row, column)`, in 32-bit words (64 for f64), low element first."""
    item = matrix.dtype.itemsize
    per = max(1, 4 // item)
    raw = np.zeros((count // per, lanes, per), f"u{item}")
    bits = matrix.view(f"u{item}")
    for lane in range(lanes):
        for i in range(count):
            raw[i // per, lane, i % per] = bits[place(lane, i)]
    return raw.view("u8" if item == 8 else "u4").reshape(count // per, lanes)


def _unpack(registers: np.ndarray, place, shape: tuple[int, int], dtype: np.dtype, count: int) -> np.ndarray:
    per = max(1, 4 // dtype.itemsize)
    raw = np.ascontiguousarray(registers).view(dtype).reshape(registers.shape[0], -1, per)
    out = np.zeros(shape, dtype)
    for lane in range(registers.shape[1]):
        for i in range(count):
            out[place(lane, i)] = raw[i // per, lane, i % per]
    return out


def _place_a(e: int, m: int):  # lines of 4 lanes with e elements each, then 8 rows down, then along K
    halves = 2 if m > 8 else 1

    def place(lane: int, i: int) -> tuple[int, int]:
        row = lane % 32 // 4 + (8 if halves == 2 and i // e % 2 else 0) + lane // 32 * 16
        return row, lane % 4 * e + i % e + 4 * e * (i // e // halves)

    return place


def _place_b(e: int):
    return lambda lane, i: (lane % 4 * e + i % e + 4 * e * (i // e), lane // 4)


def _place_c(m: int):
    halves = 2 if m > 8 else 1

    def place(lane: int, i: int) -> tuple[int, int]:
        row = lane % 32 // 4 + (8 if halves == 2 and i // 2 % 2 else 0) + lane // 32 * 16
        return row, 8 * (i // 2 // halves) + lane % 4 * 2 + i % 2

    return place


MMA = [
    "m16n8k8.row.col.f32.f16.f16.f32",
    "m16n8k16.row.col.f32.f16.f16.f32",
    "m16n8k16.row.col.f16.f16.f16.f16",
    "m16n8k8.row.col.f32.bf16.bf16.f32",
    "m16n8k16.row.col.f32.bf16.bf16.f32",
    "m16n8k4.row.col.f32.tf32.tf32.f32",
    "m16n8k8.row.col.f32.tf32.tf32.f32",
    "m16n8k32.row.col.f32.e4m3.e4m3.f32",
    "m16n8k32.row.col.f32.e5m2.e4m3.f32",
    "m8n8k16.row.col.s32.s8.s8.s32",
    "m16n8k16.row.col.s32.s8.u8.s32",
    "m16n8k32.row.col.s32.u8.u8.s32",
    "m8n8k4.row.col.f64.f64.f64.f64",
    "m16n8k4.row.col.f64.f64.f64.f64",
    "m16n8k8.row.col.f64.f64.f64.f64",
    "m16n8k16.row.col.f64.f64.f64.f64",
]


def _want(a: np.ndarray, b: np.ndarray, c: np.ndarray, type: str) -> np.ndarray:
    if type == "s32":
        return (a.astype(np.int64) @ b.astype(np.int64) + c).astype(np.int32)
    return (a.astype(np.float64) @ b.astype(np.float64) + c.astype(np.float64)).astype(DTYPES[type])


@pytest.mark.parametrize("name", MMA)
def test_mma(name: str) -> None:
    p = products.mma(("sync", "aligned", *name.split(".")))
    assert p is not None
    rng = np.random.default_rng(len(name))
    a, b, c = _draw(rng, (p.m, p.k), p.a), _draw(rng, (p.k, p.n), p.b), _draw(rng, (p.m, p.n), p.d)
    e = max(1, 4 // a.dtype.itemsize)
    ra = _pack(a, _place_a(e, p.m), a.size // 32, 32)
    rb = _pack(b, _place_b(e), b.size // 32, 32)
    rc = _pack(c, _place_c(p.m), c.size // 32, 32)
    assert ra.shape[0] == p.left.registers and rb.shape[0] == p.right.registers and rc.shape[0] == p.result.registers
    d = p.to_registers(p.from_left(ra), p.from_right(rb), p.from_result(rc))
    got = _unpack(d, _place_c(p.m), c.shape, c.dtype, c.size // 32)
    want = _want(a, b, c, p.d)
    assert (got == want).all() if p.d != "f64" else np.allclose(got, want, rtol=1e-14, atol=1e-14)


WGMMA = [
    "m64n8k16.f32.bf16.bf16",
    "m64n256k16.f32.f16.f16",
    "m64n64k16.f16.f16.f16",
    "m64n40k8.f32.tf32.tf32",
    "m64n96k32.f32.e4m3.e5m2",
    "m64n32k32.s32.s8.u8",
    "m64n32k32.f16.e4m3.e4m3",
]


@pytest.mark.parametrize("name", WGMMA)
@pytest.mark.parametrize("accumulate", [False, True])
def test_wgmma_with_a_from_registers(name: str, accumulate: bool) -> None:
    p = products.wgmma(("mma_async", "sync", "aligned", *name.split(".")))
    assert p is not None
    rng = np.random.default_rng(len(name))
    a, b, c = _draw(rng, (p.m, p.k), p.a), _draw(rng, (p.k, p.n), p.b), _draw(rng, (p.m, p.n), p.d)
    ra = _pack(a, _place_a(4 // a.dtype.itemsize, 64), a.size // 128, 128)
    rc = _pack(c, _place_c(64), c.size // 128, 128)
    d = p.to_registers(
        p.from_left(ra), products.numbers(b.view(products.ELEMENTS[p.b].raw), p.b), p.from_result(rc) if accumulate else None
    )
    assert (_unpack(d, _place_c(64), c.shape, c.dtype, c.size // 128) == _want(a, b, c if accumulate else 0 * c, p.d)).all()


def test_saturation_and_wrapping() -> None:
    a = np.full((1, 16, 32), 127.0)
    b = np.full((1, 32, 8), 127.0)
    c = np.full((1, 16, 8), 2.0**31 - 1)
    sat = products.multiply_add(a, b, c, "s32", saturate=True)
    assert (sat == 2**31 - 1).all()
    assert (products.multiply_add(a, b, c, "s32") == 32 * 127 * 127 - 2**31 - 1).all()
    assert (products.multiply_add(-a, b, -c, "s32", saturate=True) == -(2**31)).all()


def test_infinities_and_overflow_without_warnings() -> None:
    a, b = np.full((1, 16, 16), np.inf), np.zeros((1, 16, 8))
    assert np.isnan(products.multiply_add(a, b, None, "f32")).all()
    assert np.isinf(products.multiply_add(np.full((1, 16, 16), 3e38), np.full((1, 16, 8), 2.0), None, "f32")).all()
    assert np.isinf(products.multiply_add(np.full((1, 16, 16), 300.0), np.full((1, 16, 8), 300.0), None, "f16")).all()


@pytest.mark.parametrize(
    "name",
    [
        "m16n8k16.row.col.f32.f16.bf16.f32",
        "m16n8k16.row.row.f32.f16.f16.f32",
        "m16n8k16.row.col.bf16.bf16.bf16.bf16",
        "m16n8k16.row.col.f32.tf32.tf32.f32",
        "m16n8k32.row.col.s32.s8.e4m3.s32",
        "m16n8k16.row.col.f32.f16.f16.f16",
        "m16n8k256.row.col.s32.b1.b1.s32",
        "m16n8k32.row.col.kind::f8f6f4.f32.e4m3.e4m3.f32",
        "m16n8k16.row.col.satfinite.f32.f16.f16.f32",
    ],
)
def test_outside_the_table(name: str) -> None:
    assert products.mma(("sync", "aligned", *name.split("."))) is None


@pytest.mark.parametrize(
    "name",
    [
        "m64n12k16.f32.f16.f16",
        "m64n264k16.f32.f16.f16",
        "m64n40k32.s32.s8.s8",
        "m64n64k8.f32.f16.f16",
        "m64n64k16.bf16.bf16.bf16",
    ],
)
def test_outside_wgmmas_table(name: str) -> None:
    assert products.wgmma(("mma_async", "sync", "aligned", *name.split("."))) is None
