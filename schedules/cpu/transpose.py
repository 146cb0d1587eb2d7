"""Layout changes: a Program without sums, one of whose arguments is contiguous along another axis than the result is.

Read line by line, such an argument brings a whole cache line for every element. It exploits:

1. Registers. Squares of one vector by as many lines are transposed by shuffles, whole vectors in and whole vectors out.
2. L1. Blocks of squares use up every line they fetch before it is evicted, on the reading side as on the writing side.
3. Cores. Blocks are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir.expr import Expr
from treadle.schedules.cpu import vecmath
from treadle.schedules.cpu.loops import parallel_where, transposed, vector
from treadle.schedules.cpu.operands import ceildiv, product, unravel
from treadle.schedules.cpu.rows import PARALLEL_FROM
from treadle.schedules.emit import Function, value
from treadle.schedules.space import knob
from treadle.schedules.target import Target


@dataclass(frozen=True)
class Knobs:
    across: int = knob(64, (8, 16, 32, 64, 128), "block side along the argument's contiguous axis: a few cache lines of it")
    along: int = knob(64, (8, 16, 32, 64, 128), "block side along the result's contiguous axis: the lines that L1 must hold")


def applies(program: Program) -> bool:
    return program.scan is None and _crossing(program) is not None


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    lanes = target.cpu.lanes
    return [
        f"a block side of {side} cuts no tile of {lanes} lanes" for side in sorted({point.across, point.along}) if side % lanes
    ]


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    (result,), lanes = program.results, target.cpu.lanes
    crossing = _crossing(program)
    assert crossing is not None
    *outer_sizes, across, along = _last_two(list(result.shape), crossing)
    counts = [*outer_sizes, ceildiv(across, point.across), ceildiv(along, point.along)]
    # TVM's legalisation of bfloat16 trips over vectors that have a name, so its bits are moved.
    held, wide = ("uint16" if str(result.dtype) == "bfloat16" else str(result.dtype)), f"{result.dtype}x{lanes}"
    fn = Function(program)
    with fn as buffers:

        def as_held(element: Expr) -> Expr:
            return element if held == str(result.dtype) else tirx.reinterpret(held, element)

        def as_result(line: Expr) -> Expr:
            return line if held == str(result.dtype) else tirx.reinterpret(wide, line)

        def load(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
            return buffers[tensor.op.name][*index]

        def at(outer: Sequence[Expr], i: Expr, j: Expr) -> list[Expr]:
            index = [*outer, j]
            index.insert(crossing, i)
            return index

        def tile(outer: Sequence[Expr], i: Expr, j: Expr) -> None:
            """A square of `lanes` elements: in registers, or element by element at the ragged edges."""
            with T.If(tirx.all(i + lanes <= across, j + lanes <= along)):
                with T.Then():
                    lines = [
                        vector(lanes, held, lambda lane, m=m: as_held(value(result, at(outer, i + lane, j + m), load)))
                        for m in range(lanes)
                    ]
                    for m, line in enumerate(transposed(lines, lanes)):
                        T.buffer_store(buffers[result.op.name], as_result(line), at(outer, i + m, T.ramp(j, 1, lanes)))
                with T.Else(), T.grid(tirx.min(lanes, across - i), tirx.min(lanes, along - j)) as (u, v):
                    index = at(outer, i + u, j + v)
                    T.buffer_store(buffers[result.op.name], value(result, index, load), index)

        def block(task: Expr) -> None:
            *outer, i, j = (T.bind(x) for x in unravel(task, counts))
            rows = tirx.min(point.across, across - i * point.across)
            columns = tirx.min(point.along, along - j * point.along)
            with T.grid(ceildiv(rows, lanes), ceildiv(columns, lanes)) as (u, v):
                tile(outer, T.bind(i * point.across + u * lanes), T.bind(j * point.along + v * lanes))

        parallel_where(product(result.shape) >= PARALLEL_FROM, product(counts), block)
    return vecmath.vectorise(fn.primfunc)


def _last_two(sizes: list[Expr], crossing: int) -> list[Expr]:
    """Sizes with the crossing axis brought next to the last."""
    sizes.insert(len(sizes) - 2, sizes.pop(crossing))
    return sizes


def _crossing(program: Program) -> int | None:
    """The axis of the result along which an argument of as many axes is contiguous, where that is not the last one."""
    result = program.results[0]
    if len(program.results) != 1 or any(not isinstance(t.op, te.PlaceholderOp) for t in result.op.input_tensors):
        return None
    axes = [a.var for a in result.op.axis]
    found: list[int] = []

    def note(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
        found.extend(a for a, v in enumerate(axes[:-1]) if v.same_as(index[-1]))
        return tirx.const(0, tensor.dtype)

    value(result, axes, note)
    return found[0] if found else None
