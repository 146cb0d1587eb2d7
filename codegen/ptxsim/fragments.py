"""Which thread holds which elements of a matrix: the layouts of mma, ldmatrix, stmatrix and wgmma.

All of them are one picture. Eight rows of a matrix lie over the eight groups of four lanes of a warp, and within a row each lane
holds a 32-bit register's worth of neighbours (64 bits for f64). Larger matrices repeat the picture: first downwards, then along
the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True, eq=False)
class Fragment:
    """A matrix spread over threads: element e of register r of lane l is the matrix's `flat[r, l, e]`, counted row by row."""

    shape: tuple[int, int]
    flat: np.ndarray  # (registers, lanes, elements of a register)
    order: np.ndarray  # the inverse: where each element of the matrix stands in `flat`

    @property
    def registers(self) -> int:
        """How many registers each thread gives."""
        return self.flat.shape[0]

    @property
    def lanes(self) -> int:
        """How many threads hold the matrix: a warp or a warpgroup."""
        return self.flat.shape[1]

    def join(self, registers: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """(registers, threads) raw words -> (matrices, rows, columns); `dtype` is what a word is made of."""
        words = registers.reshape(self.registers, -1, self.lanes).swapaxes(0, 1)
        elements = np.ascontiguousarray(words).view(dtype).reshape(words.shape[0], -1)
        return elements.take(self.order, axis=1).reshape(-1, *self.shape)

    def split(self, matrices: np.ndarray, word: np.dtype) -> np.ndarray:
        """(matrices, rows, columns) -> (registers, threads) raw words of dtype `word`."""
        elements = matrices.reshape(matrices.shape[0], -1).take(self.flat.ravel(), axis=1)
        words = elements.view(word).reshape(-1, self.registers, self.lanes)
        return np.ascontiguousarray(words.swapaxes(0, 1)).reshape(self.registers, -1)


def _fragment(shape: tuple[int, int], row: np.ndarray, column: np.ndarray) -> Fragment:
    row, column = np.broadcast_arrays(row, column)
    flat = row * shape[1] + column
    order = np.argsort(flat, axis=None)
    assert flat.size == shape[0] * shape[1] and (flat.ravel()[order] == np.arange(flat.size)).all()
    return Fragment(shape, flat, order)


def _axes(registers: int, lanes: int, elements: int) -> tuple[np.ndarray, ...]:
    """Register, warp, group of four lanes, lane in the group, element: ready to broadcast to (registers, lanes, elements)."""
    lane = np.arange(lanes)[None, :, None]
    return (
        np.arange(registers)[:, None, None],
        lane // 32,
        lane % 32 // 4,
        lane % 4,
        np.arange(elements)[None, None, :],
    )


@cache
def left(rows: int, depth: int, elements: int, warps: int = 1) -> Fragment:
    """A: `rows` x `depth`, `elements` of it in a register."""
    share = rows // warps
    down = share // 8
    r, warp, group, lane, e = _axes(down * depth // (4 * elements), 32 * warps, elements)
    return _fragment((rows, depth), share * warp + group + 8 * (r % down), lane * elements + e + 4 * elements * (r // down))


@cache
def right(depth: int, columns: int, elements: int) -> Fragment:
    """B: `depth` x 8 of one warp; the picture on its side."""
    assert columns == 8
    r, _, group, lane, e = _axes(depth // (4 * elements), 32, elements)
    return _fragment((depth, columns), lane * elements + e + 4 * elements * r, group)


@cache
def accumulator(rows: int, columns: int, elements: int, warps: int = 1) -> Fragment:
    """C and D: two neighbours of a row at a time, whatever a register holds."""
    share = rows // warps
    down = share // 8
    r, warp, group, lane, e = _axes(share * columns // (32 * elements), 32 * warps, elements)
    i = r * elements + e
    row = share * warp + group + 8 * (i // 2 % down)
    return _fragment((rows, columns), row, 8 * (i // (2 * down)) + 2 * lane + i % 2)


@cache
def eight_by_eight(transposed: bool) -> Fragment:
    """One matrix of ldmatrix, stmatrix and movmatrix: 8 x 8 of 16 bits, a register of every lane of a warp."""
    r, _, group, lane, e = _axes(1, 32, 2)
    row, column = group + 0 * r, 2 * lane + e
    return _fragment((8, 8), column, row) if transposed else _fragment((8, 8), row, column)
