"""Reusable scheduling steps, each named for what it does to the loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import ir, s_tir, te, tirx
from tvm.ir import IRModule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from treadle.dtypes import dtype as find_dtype
from treadle.ir import Program
from treadle.ir.expr import Expr
from treadle.schedules.emit import at, value, without_rest


def begin(program: Program, results: Sequence[te.Tensor]) -> s_tir.Schedule:
    """A schedule of the plain loops of a Program, one block per tensor expression."""
    func = te.create_prim_func([*program.args, *results])
    return s_tir.Schedule(IRModule({"main": func.with_attr("global_symbol", program.symbol)}))


@dataclass(frozen=True)
class LaneSum:
    """The blocks that a sum became: its lanes, their sum, and the sum of the ragged rest."""

    lanes: str
    across: str
    rest: str


def sums_in_lanes(results: Sequence[te.Tensor], lanes: int) -> tuple[list[te.Tensor], list[LaneSum]]:
    """The same expressions, each sum as `lanes` float64 sums side by side plus the rest.

    LLVM may not reorder a float sum: one accumulator would be one scalar addition after another. In float64 the order
    does not matter to a float32 result, where lanes of float32 lose more digits than a library's pairwise summation;
    and a core adds doubles faster than memory delivers floats. (S-TIR's rfactor is no way to this: compute_at then
    drops the predicate of the ragged tail.)
    """
    made: dict[te.Tensor, te.Tensor] = {}
    sums: list[LaneSum] = []

    def load(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
        if isinstance(tensor.op, te.PlaceholderOp):
            return tensor[*index]
        if tensor not in made:
            made[tensor] = rebuilt(tensor)
        return made[tensor][*index].astype(str(tensor.dtype))

    def rebuilt(tensor: te.Tensor) -> te.Tensor:
        name, body = tensor.op.name, tensor.op.body[0]
        if not isinstance(body, tirx.Reduce):
            return te.compute(tensor.shape, lambda *i: without_rest(value(tensor, i, load), rest_of_mean), name)
        *outer, inner = body.axis
        variables = [*(a.var for a in tensor.op.axis), *(a.var for a in body.axis)]
        size, names_of = inner.dom.extent, [a.var.name for a in outer]

        def part(index: Sequence[Expr], first: Expr, stride: int, count: Expr) -> Expr:
            steps = [te.reduce_axis((0, a.dom.extent), n) for a, n in zip(outer, names_of, strict=True)]
            step = te.reduce_axis((0, count), inner.var.name)
            at_step = [*index, *(s.var for s in steps), first + step.var * stride]
            term = without_rest(at(body.source[0], variables, at_step, load), rest_of_mean)
            return te.sum(term.astype("float64"), [*steps, step])

        wide = tirx.const(lanes, "int64")
        each = te.compute((*tensor.shape, wide), lambda *i: part(i[:-1], i[-1], lanes, size // lanes), f"{name}_lanes")
        rest = te.compute(tensor.shape, lambda *i: part(i, size // lanes * lanes, 1, size % lanes), f"{name}_rest")
        lane = te.reduce_axis((0, wide), "lane")
        across = te.compute(tensor.shape, lambda *i: te.sum(each[*i, lane], lane), f"{name}_across")
        sums.append(LaneSum(each.op.name, across.op.name, rest.op.name))
        return te.compute(tensor.shape, lambda *i: across[*i] + rest[*i], name)

    return [rebuilt(t) for t in results], sums


def rest_of_mean(total: Expr, count: Expr) -> Expr | None:
    """What a float64 sum divided by a count loses when the mean is rounded to float32."""
    if not isinstance(total, tirx.Cast):
        return None
    exact = total.value / count.astype("float64")
    return (exact - (total / count).astype("float64")).astype("float32")


def lanes_in_registers(sch: s_tir.Schedule, block: SBlockRV, outer: int) -> None:
    """Bring the lanes of a sum, its last axis, inside the reduction: each lane is one element of a vector register."""
    lane, *steps = steps_of(sch, block, outer, at_least=2)
    sch.reorder(*steps, lane)
    sch.vectorize(lane)
    start = start_before(sch, block, steps[0])
    sch.vectorize(sch.get_loops(start)[-1])


def steps_of(sch: s_tir.Schedule, block: SBlockRV, outer: int, at_least: int) -> list[LoopRV]:
    """The loops of a block inside its `outer` ones; a sum of one step, whose loop compute_at has removed, gets it back."""
    while len(sch.get_loops(block)) < outer + at_least:
        sch.add_unit_loop(block)
    return list(sch.get_loops(block))[outer:]


def start_before(sch: s_tir.Schedule, block: SBlockRV, step: LoopRV) -> SBlockRV:
    """Set a sum to zero before its loop and not in the loop's first step, which an empty loop never takes."""
    return sch.decompose_reduction(block, step)


def rows_in_parallel(sch: s_tir.Schedule, rows: Sequence[LoopRV], rest: Sequence[LoopRV], cores: bool) -> LoopRV:
    """One outer loop over all rows, shared out between the cores where that pays."""
    sch.reorder(*rows, *rest)
    row = sch.fuse(*rows)
    if cores:
        sch.parallel(row)
    return row


def compute_rows_at(sch: s_tir.Schedule, blocks: Sequence[SBlockRV], row: LoopRV) -> None:
    """Compute earlier stages row by row, where their values are still in the nearest cache when they are used."""
    for block in reversed(blocks):
        sch.compute_at(block, row)


def either(condition: Expr, first: tirx.PrimFunc, second: tirx.PrimFunc) -> tirx.PrimFunc:
    """One function of two schedules of the same Program, chosen at run time."""
    theirs = dict(zip((p.name for p in second.params), first.params, strict=True))

    def swap(v: tirx.Var) -> tirx.Var:
        return next((theirs[p.name] for p in second.params if p.same_as(v)), v)

    body = tirx.IfThenElse(condition, first.body, tvm_ffi.structural_map(second.body, (tirx.Var, swap)))
    return first.with_body(body) if hasattr(first, "with_body") else tirx.PrimFunc(first.params, body, attrs=first.attrs)


def elements(tensor: te.Tensor) -> Expr:
    """How many elements a tensor has."""
    total = tirx.const(1, "int64")
    for size in tensor.shape:
        total = total * size
    return total


def speculate_selects(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Evaluate what a Select chooses from before it chooses, where every read is inside its buffer whatever the condition.

    TVM otherwise turns a Select over reads into a branch, and a branch per element keeps LLVM from vectorising.
    """

    def plain(e: Expr) -> bool:
        reads: list[Expr] = []
        tvm_ffi.structural_walk(e, (ir.TensorLoad, reads.append))
        return all(isinstance(i, (tirx.Var, tirx.IntImm)) for r in reads for i in r.indices)

    def swap(s: tirx.Select) -> Expr:
        if not (plain(s.true_value) and plain(s.false_value)):
            return s
        held = [tirx.Var(name, v.ty) for name, v in (("chosen", s.true_value), ("other", s.false_value))]
        return tirx.Let(held[0], s.true_value, tirx.Let(held[1], s.false_value, tirx.Select(s.condition, *held)))

    return tvm_ffi.structural_map(func, (tirx.Select, swap))


def realign_buffers(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Promise no more than element alignment of the parameters: callers pass any offset view."""
    kind = type(func.params[0].ty)
    given = [p.ty for p in func.params]

    def relax(b: tirx.Buffer) -> tirx.Buffer:
        if not any(b.same_as(g) for g in given):
            return b
        align = find_dtype(str(b.dtype)).itemsize
        return kind(
            b.dtype, b.storage_scope, b.shape, b.strides, b.elem_offset, align, b.offset_factor, b.layout, b.allocated_addr
        )

    return tvm_ffi.structural_map(func, (kind, relax))
