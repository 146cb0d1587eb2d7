"""ldmatrix and mma.sync.m16n8k16, as instructions and as what the PTX manual says they do.

A warp multiplies a 16 x 16 row tile by a 16 x 8 column tile. Each instruction is written twice from the same operands: as
PTX for CUDA, and as scalar code over the registers of all 32 lanes for emulation, following the fragment figures of the
PTX manual (9.7.14.5, "Matrix Fragments for mma.m16n8k16"). Addresses, fragment numbers and accumulators are therefore
proved by emulation; that the instructions do what the manual says is not.

    lane = 4 g + h      accumulator e: row g + 8 (e // 2), column 2 h + e % 2
    row tile    register r, half s: row g + 8 (r % 2), step 2 h + s + 8 (r // 2)
    column tile register r, half s: column g, step 2 h + s + 8 r
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.schedules.gemm.block import Block, Registers

_TYPES = {"float16": "f16", "bfloat16": "bf16"}


def matrix_origin(which: str, lane: Expr) -> tuple[Expr, Expr]:
    """(position, step) of the row of 8 elements whose address a lane gives to ldmatrix.x4, if memory runs along the steps.

    The four 8 x 8 matrices land in the four registers in turn. For the rows they are one 16 x 16 tile; for the columns two
    neighbouring 8-column tiles, each with both halves of its 16 steps.
    """
    matrix, r = lane // 8, lane % 8
    along, across = matrix % 2 * 8, matrix // 2 * 8
    return (along + r, across) if which == "row" else (across + r, along)


def matrix_origin_transposed(which: str, lane: Expr) -> tuple[Expr, Expr]:
    """The same if memory runs along the positions: a lane gives a row of 8 positions at one step, and .trans turns them."""
    matrix, r = lane // 8, lane % 8
    along, across = matrix % 2 * 8, matrix // 2 * 8
    return (along, across + r) if which == "row" else (across, along + r)


class WarpMma:
    """The two instructions for a block whose warps are 32 consecutive threads."""

    def __init__(self, block: Block, dtype: str) -> None:
        self.block, self.dtype = block, dtype

    def fragments(self, registers: int) -> Registers:
        """Room for 32-bit registers of two elements each; under emulation, the elements themselves in float32."""
        return self.block.registers(registers, "uint32") if self.block.cuda else self.block.registers(2 * registers, "float32")

    def load(
        self,
        to: Registers,
        first: Expr | int,
        shared: tirx.Var,
        address: Callable[[Expr], Expr],
        thread: Expr,
        transposed: bool,
    ) -> None:
        """ldmatrix.x4 into four registers from `first`; `address(lane)` is where that lane's row of 8 elements starts."""
        lane = thread % 32
        if self.block.cuda:
            form = "x4.trans" if transposed else "x4"
            T.evaluate(
                T.ptx[f"ldmatrix.sync.aligned.m8n8.{form}.shared.b16"](
                    *(to.get(thread, first + r) for r in range(4)), T.address_of(shared[address(lane)])
                )
            )
            return
        for register in range(4):
            for half in range(2):
                row, at = (lane % 4 * 2 + half, lane // 4) if transposed else (lane // 4, lane % 4 * 2 + half)
                value = shared[address(8 * register + row) + at].astype("float32")
                to.put(thread, (first + register) * 2 + half, value)

    def multiply(
        self, sums: Registers, c: Expr | int, rows: Registers, a: Expr | int, columns: Registers, b: Expr | int, thread: Expr
    ) -> None:
        """Four sums from `c` += the row tile in registers a..a+3 times the column tile in registers b, b+1."""
        total = [sums.get(thread, c + e) for e in range(4)]
        if self.block.cuda:
            kind = _TYPES[self.dtype]
            T.evaluate(
                T.ptx[f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32"](
                    *total,
                    *(rows.get(thread, a + r) for r in range(4)),
                    *(columns.get(thread, b + r) for r in range(2)),
                    *total,
                )
            )
            return
        warp, lane = thread // 32 * 32, thread % 32
        for e in range(4):
            g, column = lane // 4, lane % 4 * 2 + e % 2
            with T.serial(0, 16) as k:
                # Whose registers hold step k of this row and of this column: lanes of one warp read each other's.
                owner, register = k % 8 // 2, k // 8
                left = rows.get(warp + g * 4 + owner, (a + e // 2 + 2 * register) * 2 + k % 2)
                right = columns.get(warp + column * 4 + owner, (b + register) * 2 + k % 2)
                sums.put(thread, c + e, total[e] + left * right)


def sum_at(lane: Expr, e: Expr | int) -> tuple[Expr, Expr]:
    """(row, column) in a 16 x 8 tile of a lane's sum e."""
    return lane // 4 + e // 2 * 8, lane % 4 * 2 + e % 2
