"""Rows: every Program of tensor expressions that is no contraction. It exploits:

1. Cores. Rows are independent; they are shared out where the work exceeds the cost of waking a thread.
2. L1. Intermediate stages (row statistics, sigmoids) are computed one row at a time next to their use, and never become
   full-size temporaries.
3. Vectors. LLVM vectorises the loops along a row, exponentials included once they are arithmetic; sums, which it may not
   reorder, are split into lanes beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import te, tirx

from treadle.ir import Program
from treadle.ir.dims import constant
from treadle.ir.expr import Expr
from treadle.schedules import moves
from treadle.schedules.cpu import vecmath
from treadle.schedules.emit import value
from treadle.schedules.space import knob
from treadle.schedules.target import Target

#: Elements touched from which waking the other cores pays (about 2 per ns on one core, and waking them takes about 20 us).
PARALLEL_FROM = 1 << 16


@dataclass(frozen=True)
class Knobs:
    lanes: int = knob(16, (8, 16, 32), "partial sums side by side: enough to hide the latency of an addition")


def applies(program: Program) -> bool:
    return program.scan is None and len(program.results) == 1 and _only_sums(program.results[0]) and not program.updates


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    cpu = target.cpu
    used = 2 * point.lanes // cpu.lanes
    if used > cpu.registers // 2:
        return [f"{point.lanes} float64 sums fill {used} of the {cpu.registers} vector registers of {cpu.level}"]
    return []


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    work = sum((moves.elements(t) for t in (*program.args, *program.results)), tirx.const(0, "int64"))
    pays = work + 8 * program.exps >= PARALLEL_FROM
    if (known := constant(pays)) is not None:
        func = _rows(program, point, cores=bool(known))
    else:
        func = moves.either(pays, _rows(program, point, cores=True), _rows(program, point, cores=False))
    return vecmath.vectorise(moves.speculate_selects(moves.realign_buffers(func)))


def _rows(program: Program, point: Knobs, cores: bool) -> tirx.PrimFunc:
    results, sums = moves.sums_in_lanes(program.results, point.lanes)
    (result,) = results
    sch = moves.begin(program, results)
    axes = sch.get_loops(sch.get_sblock(result.op.name))
    rows = _row_axes(result)
    row = moves.rows_in_parallel(sch, [axes[a] for a in rows], [loop for a, loop in enumerate(axes) if a not in rows], cores)
    stages = [b for b in sch.get_child_blocks(sch.get_sblock("root")) if sch.get(b).name_hint != result.op.name]
    moves.compute_rows_at(sch, stages, row)
    for s in sums:
        moves.lanes_in_registers(sch, sch.get_sblock(s.lanes), outer=1)
        for name in (s.rest, s.across):
            block = sch.get_sblock(name)
            moves.start_before(sch, block, moves.steps_of(sch, block, outer=1, at_least=1)[0])
    return sch.mod["main"]


def _row_axes(result: te.Tensor) -> list[int]:
    """The axes of the result that every stage it reads has too: a row is what can be computed on its own.

    The last axis is the row itself, unless a sum runs for each of its elements. A result without stages is one long row
    of elements, which a core takes a contiguous part of.
    """
    axes = [a.var for a in result.op.axis]
    reads: list[tuple[te.Tensor, list[Expr]]] = []

    def note(tensor: te.Tensor, index: list[Expr]) -> Expr:
        if not isinstance(tensor.op, te.PlaceholderOp):
            reads.append((tensor, index))
        return tirx.const(0, tensor.dtype)

    value(result, axes, note)
    shared = [a for a, v in enumerate(axes) if all(any(v.same_as(i) for i in index) for _, index in reads)]
    line = len(axes) - 1
    if reads and line in shared and not any(_sums(t) for t, _ in reads):
        shared.remove(line)
    return shared


def _sums(tensor: te.Tensor) -> bool:
    """Whether a sum stands anywhere behind a tensor."""
    return isinstance(tensor.op, te.ComputeOp) and (
        isinstance(tensor.op.body[0], tirx.Reduce) or any(_sums(t) for t in tensor.op.input_tensors)
    )


def _only_sums(tensor: te.Tensor) -> bool:
    """Whether every reduction behind a tensor is a sum: no other is split into lanes here."""
    if not isinstance(tensor.op, te.ComputeOp):
        return True
    body = tensor.op.body[0]
    own = not isinstance(body, tirx.Reduce) or isinstance(body.combiner.result[0], tirx.Add)
    return own and all(_only_sums(t) for t in tensor.op.input_tensors)
