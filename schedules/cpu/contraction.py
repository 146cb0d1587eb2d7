"""Contractions, packed and blocked for the cache and register hierarchy of a CPU (GotoBLAS and BLIS).

For any Program of the form  result = epilogue(total, others),  total = sum over reduction axes of a * b.  It exploits:

1. Registers. A tile of `mr` x `nr` sums stays in vector registers over a whole block of the reduction. The contiguous axis
   of the result is the vector side; the other factor is broadcast.
2. L1 and L2. The reduction is cut into blocks of `kc`, both operands of a block are packed into small float32 panels
   (float16 and bfloat16 are converted on the way; an implicit GEMM gathers its patches here), and the panels are reused.
3. Cores. Blocks of `mc` x `nc` results are independent; they are shared out where the work exceeds the cost of waking a
   thread, and run on the calling thread where it does not.
4. Bandwidth. The epilogue reads the finished sums of a register tile while L1 still holds them.

Ragged sizes cost the micro-kernel nothing: packing repeats the last row or column, and only stores are guarded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir.dims import constant, simplify
from treadle.ir.expr import Expr
from treadle.schedules.cpu import vecmath
from treadle.schedules.cpu.loops import parallel_where
from treadle.schedules.cpu.micro_kernel import multiply, refusals
from treadle.schedules.cpu.operands import Contraction, ceildiv, find, product, unravel
from treadle.schedules.cpu.packing import Packing
from treadle.schedules.emit import Function
from treadle.schedules.space import knob
from treadle.schedules.target import Target

#: Multiply-adds from which waking the other cores pays (they do some 30 per ns, and waking them takes about 20 us).
PARALLEL_FROM = 1 << 20
#: Bytes a task may pack, of the 1 MiB of L2 that a core of the reference machine owns.
L2_BYTES = 1 << 20


@dataclass(frozen=True)
class Knobs:
    mr: int = knob(6, (2, 4, 6, 8, 12, 14), "rows of the register tile: each costs one broadcast per step of the reduction")
    nr: int = knob(2, (1, 2, 3, 4), "vector registers per row of the tile: each costs one load per step")
    kc: int = knob(
        256, (32, 64, 128, 256, 384, 512), "reduction steps per block: panels must fit L1, and a block's sums are moved once"
    )
    mc: int = knob(384, (48, 96, 192, 384, 768), "rows per task: how often a packed column is used")
    nc: int = knob(512, (64, 128, 256, 512, 1024), "columns per task: how often a packed row is used")


def applies(program: Program) -> bool:
    return find(program) is not None


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    cpu = target.cpu
    reasons = refusals(cpu, point.mr, point.nr)
    if point.mc < point.mr:
        reasons.append(f"a task of {point.mc} rows is smaller than one tile of {point.mr}")
    packed = 4 * point.kc * (point.mc + point.nc)
    if packed > 2 * L2_BYTES:
        reasons.append(f"the packed panels of a task take {packed >> 10} KiB, twice what L2 holds")
    return reasons


def default(program: Program, target: Target) -> Knobs:
    return Knobs() if target.cpu.registers == 16 else Knobs(mr=12, nr=2)


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    found = find(program)
    assert found is not None
    fn = Function(program)
    with fn as buffers:
        nest = _Nest(found, buffers, target.cpu.lanes, point)
        parallel_where(nest.work >= PARALLEL_FROM, nest.tasks, nest.task)
    return vecmath.vectorise(fn.primfunc)


class _Blocks:
    """A size cut into equal blocks of at most `most`, each a multiple of `unit`; `most` itself is one.

    Their number is a multiple of `times`, so that cores share them evenly.
    """

    def __init__(self, size: Expr, most: int, unit: int, times: int = 1) -> None:
        self.size = size = named(size)
        # At least 1 in a form that TVM sees: its simplifier tries a size of 0 and would divide by it.
        self.count = named(tirx.max(ceildiv(size, most // unit * unit * times), 1) * times)
        self.step = named(ceildiv(ceildiv(size, self.count), unit) * unit)
        self.most = constant(self.step) or most // unit * unit

    def block(self, i: Expr) -> tuple[Expr, Expr]:
        """Where block i starts and how long it is."""
        start = T.bind(i * self.step)
        return start, T.bind(tirx.min(self.step, self.size - start))


def named(size: Expr) -> Expr:
    """A size as a number, or else bound to a name, which TVM's passes then carry instead of the expression."""
    size = simplify(size)
    return size if constant(size) is not None or isinstance(size, tirx.Var) else T.bind(size)


class _Nest:
    """The loops around the micro-kernel, from the outside in: tasks, blocks of the reduction, column panels, row tiles."""

    def __init__(self, c: Contraction, buffers: Mapping[str, tirx.Var], lanes: int, point: Knobs) -> None:
        self.c, self.buffers, self.lanes = c, buffers, lanes
        self.mr, self.nr, self.vectors = point.mr, point.nr * lanes, point.nr
        self.rows, self.columns = _Blocks(c.rows, point.mc, self.mr, times=2), _Blocks(c.columns, point.nc, self.nr)
        self.depth = _Blocks(c.depth, point.kc, lanes)
        self.packing = Packing(c, self.load, lanes, self.depth.most)
        self.outer = product(c.outer_sizes)
        self.tasks = self.outer * self.rows.count * self.columns.count
        self.work = self.outer * c.rows * c.columns * c.depth

    def load(self, tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
        return self.buffers[tensor.op.name][*index]

    def task(self, task: Expr) -> None:
        *outer, i, j = unravel(task, [*self.c.outer_sizes, self.rows.count, self.columns.count])
        outer = [T.bind(o) for o in outer]
        (row, rows), (column, columns) = self.rows.block(i), self.columns.block(j)
        whole = constant(self.depth.count) == 1
        panels, tiles = self.columns.most // self.nr, self.rows.most // self.mr
        left = T.alloc_buffer((self.rows.most * self.depth.most,), "float32")
        right = T.alloc_buffer((self.columns.most * self.depth.most,), "float32")
        # A reduction of one block needs only the tile at hand; partial sums of several blocks wait in float32.
        sums = T.alloc_buffer(((1 if whole else panels * tiles) * self.mr * self.nr,), "float32")
        with T.serial(0, self.depth.count) as block:
            step, steps = self.depth.block(block)
            self.packing.rows(left, outer, row, rows, step, steps, self.mr)
            self.packing.columns(right, outer, column, columns, step, steps, self.nr)
            with T.serial(0, ceildiv(columns, self.nr)) as p, T.serial(0, ceildiv(rows, self.mr)) as t:
                tile = tirx.const(0, "int64") if whole else T.bind((p * tiles + t) * self.mr * self.nr)
                multiply(
                    self.mr,
                    self.vectors,
                    self.lanes,
                    steps,
                    lambda r, k: left[self.packing.row_at(t, r, k, self.mr)],
                    lambda k: (right, (p * self.depth.most + k) * self.nr),
                    (sums, tile),
                    block == 0,
                )
                finish = partial(self.finish, sums, tile, outer, row + t * self.mr, column + p * self.nr)
                if whole:
                    finish()
                else:
                    with T.If(block == self.depth.count - 1), T.Then():
                        finish()

    def finish(self, sums: tirx.Var, tile: Expr, outer: Sequence[Expr], row: Expr, column: Expr) -> None:
        """Apply the epilogue to a finished tile: whole vectors where they fit, scalars at the ragged right edge."""
        result = self.buffers[self.c.result.op.name]
        with T.serial(0, tirx.min(self.mr, self.rows.size - row)) as i, T.serial(0, self.vectors) as v:
            start = T.bind(column + v * self.lanes)

            def store(lane: Expr) -> None:
                index = self.c.index(outer, row + i, start + lane)
                total = sums[tile + i * self.nr + v * self.lanes + lane]
                T.buffer_store(result, self.c.finish(index, total, self.load), index)

            with T.If(start + self.lanes <= self.c.columns):
                with T.Then(), T.vectorized(0, self.lanes) as lane:
                    store(lane)
                with T.Else(), T.serial(0, tirx.max(0, self.c.columns - start)) as lane:
                    store(lane)
