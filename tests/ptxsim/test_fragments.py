"""Fragment layouts against the tables of the PTX ISA, written as its loops: lane by lane, element by element."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from treadle.codegen.ptxsim import fragments, products

Place = Callable[[int, int], tuple[int, int]]  # lane, element -> row, column


def _a_k8_16(lane: int, i: int) -> tuple[int, int]:  # m16n8k8, f16 and bf16: 4 elements
    group, thread = lane >> 2, lane % 4
    return (group if i in (0, 1) else group + 8), thread * 2 + (i & 1)


def _a_k16_16(lane: int, i: int) -> tuple[int, int]:  # m16n8k16, f16 and bf16: 8 elements
    group, thread = lane >> 2, lane % 4
    row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
    return row, thread * 2 + (i & 1) + (8 if i >= 4 else 0)


def _a_k4_tf32(lane: int, i: int) -> tuple[int, int]:
    return (lane >> 2) + (8 if i == 1 else 0), lane % 4


def _a_k8_tf32(lane: int, i: int) -> tuple[int, int]:
    row = lane >> 2 if i in (0, 2) else (lane >> 2) + 8
    return row, lane % 4 if i in (0, 1) else lane % 4 + 4


def _a_k16_8(lane: int, i: int) -> tuple[int, int]:  # m16n8k16, 8 bits: 8 elements
    return (lane >> 2) + (0 if i < 4 else 8), lane % 4 * 4 + (i & 3)


def _a_k32_8(lane: int, i: int) -> tuple[int, int]:  # m16n8k32, 8 bits: 16 elements
    row = lane >> 2 if 0 <= i < 4 or 8 <= i < 12 else (lane >> 2) + 8
    return row, lane % 4 * 4 + (i & 3) + (16 if i >= 8 else 0)


def _a_m8_8(lane: int, i: int) -> tuple[int, int]:  # m8n8k16, 8 bits: 4 elements
    return lane >> 2, lane % 4 * 4 + i


def _a_k4_f64_m8(lane: int, i: int) -> tuple[int, int]:
    return lane >> 2, lane % 4


def _a_k16_f64(lane: int, i: int) -> tuple[int, int]:  # m16n8k16: 8 elements
    row = lane >> 2 if i % 2 == 0 else (lane >> 2) + 8
    return row, (i * 2 + lane % 4) if i % 2 == 0 else (i * 2 - 2 + lane % 4)


def _b_k8_16(lane: int, i: int) -> tuple[int, int]:
    return lane % 4 * 2 + i, lane >> 2


def _b_k16_16(lane: int, i: int) -> tuple[int, int]:
    return lane % 4 * 2 + (i & 1) + (8 if i >= 2 else 0), lane >> 2


def _b_k8_tf32(lane: int, i: int) -> tuple[int, int]:
    return lane % 4 if i == 0 else lane % 4 + 4, lane >> 2


def _b_k16_8(lane: int, i: int) -> tuple[int, int]:
    return lane % 4 * 4 + i, lane >> 2


def _b_k32_8(lane: int, i: int) -> tuple[int, int]:
    return lane % 4 * 4 + (i & 3) + (16 if i >= 4 else 0), lane >> 2


def _b_k4_64(lane: int, i: int) -> tuple[int, int]:
    return lane % 4, lane >> 2


def _b_k16_f64(lane: int, i: int) -> tuple[int, int]:
    return lane % 4 + i * 4, lane >> 2


def _c_m16(lane: int, i: int) -> tuple[int, int]:
    return (lane >> 2) + (0 if i < 2 else 8), lane % 4 * 2 + (i & 1)


def _c_m8(lane: int, i: int) -> tuple[int, int]:
    return lane >> 2, lane % 4 * 2 + i


CASES: list[tuple[str, fragments.Fragment, int, Place]] = [
    ("A m16n8k8 16 bit", fragments.left(16, 8, 2), 4, _a_k8_16),
    ("A m16n8k16 16 bit", fragments.left(16, 16, 2), 8, _a_k16_16),
    ("A m16n8k4 tf32", fragments.left(16, 4, 1), 2, _a_k4_tf32),
    ("A m16n8k8 tf32", fragments.left(16, 8, 1), 4, _a_k8_tf32),
    ("A m16n8k16 8 bit", fragments.left(16, 16, 4), 8, _a_k16_8),
    ("A m16n8k32 8 bit", fragments.left(16, 32, 4), 16, _a_k32_8),
    ("A m8n8k16 8 bit", fragments.left(8, 16, 4), 4, _a_m8_8),
    ("A m8n8k4 f64", fragments.left(8, 4, 1), 1, _a_k4_f64_m8),
    ("A m16n8k16 f64", fragments.left(16, 16, 1), 8, _a_k16_f64),
    ("B m16n8k8 16 bit", fragments.right(8, 8, 2), 2, _b_k8_16),
    ("B m16n8k16 16 bit", fragments.right(16, 8, 2), 4, _b_k16_16),
    ("B m16n8k8 tf32", fragments.right(8, 8, 1), 2, _b_k8_tf32),
    ("B m16n8k16 8 bit", fragments.right(16, 8, 4), 4, _b_k16_8),
    ("B m16n8k32 8 bit", fragments.right(32, 8, 4), 8, _b_k32_8),
    ("B m8n8k4 f64", fragments.right(4, 8, 1), 1, _b_k4_64),
    ("B m16n8k16 f64", fragments.right(16, 8, 1), 4, _b_k16_f64),
    ("C m16n8 32 bit", fragments.accumulator(16, 8, 1), 4, _c_m16),
    ("C m16n8 f16", fragments.accumulator(16, 8, 2), 4, _c_m16),
    ("C m8n8", fragments.accumulator(8, 8, 1), 2, _c_m8),
]


def _elements(fragment: fragments.Fragment, lane: int) -> list[tuple[int, int]]:
    return [divmod(int(at), fragment.shape[1]) for at in fragment.flat[:, lane, :].ravel()]


@pytest.mark.parametrize(("name", "fragment", "count", "place"), CASES, ids=[c[0] for c in CASES])
def test_a_warps_fragments(name: str, fragment: fragments.Fragment, count: int, place: Place) -> None:
    for lane in range(32):
        assert _elements(fragment, lane) == [place(lane, i) for i in range(count)], f"{name}, lane {lane}"


@pytest.mark.parametrize(("elements", "depth"), [(2, 16), (1, 8), (4, 32)])
def test_a_warpgroups_a_from_registers_is_four_warps_of_sixteen_rows(elements: int, depth: int) -> None:
    """The figures of wgmma's register fragment A: those of m16n8k16, k8, k32, a warp below the other."""
    place = {2: _a_k16_16, 1: _a_k8_tf32, 4: _a_k32_8}[elements]
    fragment = fragments.left(64, depth, elements, warps=4)
    for thread in range(128):
        want = [place(thread % 32, i) for i in range(4 * elements)]
        assert _elements(fragment, thread) == [(row + thread // 32 * 16, column) for row, column in want]


@pytest.mark.parametrize("columns", [8, 24, 128, 256])
@pytest.mark.parametrize("elements", [1, 2])
def test_a_warpgroups_accumulator(columns: int, elements: int) -> None:
    """wgmma's D: row = groupID (+8 where i & 2), + 16 a warp; column = 8 * (i / 4) + (threadID % 4) * 2 + (i & 1)."""
    fragment = fragments.accumulator(64, columns, elements, warps=4)
    for thread in range(0, 128, 5):
        for i, got in enumerate(_elements(fragment, thread)):
            row = thread // 32 * 16 + thread % 32 // 4 + (8 if i & 2 else 0)
            assert got == (row, 8 * (i // 4) + thread % 4 * 2 + (i & 1))


def test_one_matrix_of_ldmatrix() -> None:
    """Row by row, 8 lanes' addresses; each lane gets two neighbours of row lane / 4, transposed two of a column."""
    straight, across = fragments.eight_by_eight(False), fragments.eight_by_eight(True)
    for lane in range(32):
        for e in range(2):
            assert divmod(int(straight.flat[0, lane, e]), 8) == (lane // 4, 2 * (lane % 4) + e)
            assert divmod(int(across.flat[0, lane, e]), 8) == (2 * (lane % 4) + e, lane // 4)


@pytest.mark.parametrize(("name", "fragment", "count", "place"), CASES, ids=[c[0] for c in CASES])
def test_join_and_split(name: str, fragment: fragments.Fragment, count: int, place: Place) -> None:
    """Three matrices at once, put into registers element by element by the table, and back."""
    per_register = count // fragment.registers
    dtype = np.dtype({4: np.uint8, 2: np.uint16, 1: np.uint32}[per_register])
    rng = np.random.default_rng(1)
    matrices = rng.integers(0, np.iinfo(dtype).max, (3, *fragment.shape), dtype=dtype)
    registers = np.zeros((fragment.registers, 96), np.uint32)
    for m in range(3):
        for lane in range(32):
            for i in range(count):
                row, column = place(lane, i)
                bits = int(matrices[m, row, column]) << (i % per_register * dtype.itemsize * 8)
                registers[i // per_register, m * 32 + lane] |= np.uint32(bits)
    assert (fragment.join(registers, dtype) == matrices).all()
    assert (fragment.split(matrices, np.dtype(np.uint32)) == registers).all()


@pytest.mark.parametrize("type", ["f16", "bf16", "tf32", "e4m3", "e5m2", "s8", "u8", "f64"])
def test_the_elements_read_as_numbers(type: str) -> None:
    """Ones in every type, by their bits."""
    one = {"f16": 0x3C00, "bf16": 0x3F80, "tf32": 0x3F801FFF, "e4m3": 0x38, "e5m2": 0x3C, "s8": 1, "u8": 1}.get(
        type, 0x3FF << 52
    )
    element = products.ELEMENTS[type]
    raw = np.array([one], np.dtype(f"u{element.bits // 8}")).view(element.raw)
    assert products.numbers(raw, type) == 1.0
