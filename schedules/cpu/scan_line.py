"""Lines along the contiguous axis (t2b, b2t): one row after the other, each a handful of streams.

Exploits: a step reads and writes whole rows, so memory is walked in order, and the carry is one row, which never leaves L1.
Correct for every Scan, whatever axis is contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir import Program
from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read, Scan
from treadle.schedules.cpu import scan_common as common
from treadle.schedules.emit import Function
from treadle.schedules.space import knob
from treadle.schedules.target import Target


@dataclass(frozen=True)
class Knobs:
    together: int = knob(4, (1, 2, 4, 8), "positions sharing a gate line that are walked together, so that it is read once")
    ahead: int = knob(4, (0, 1, 2, 4, 8), "rows prefetched ahead of the walk; the hardware follows ascending rows by itself")
    stream: bool = knob(True, (False, True), "write large outputs past the caches, which saves reading each line first")


def applies(program: Program) -> bool:
    return program.scan is not None


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    assert program.scan is not None
    return common.refusals(program.scan)


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    scan = program.scan
    assert scan is not None
    function = Function(program)
    with function as buffers:
        tasks = common.split(scan, point.together)
        with T.parallel(0, tasks.count) as task:
            _Walk(scan, buffers, point, tasks, task).emit()
    return function.primfunc


class _Walk:
    """One task: a few independent positions walked from the first step to the last, side by side."""

    def __init__(self, scan: Scan, buffers: dict[str, tirx.Var], point: Knobs, tasks: common.Tasks, task: Expr) -> None:
        self.scan, self.buffers, self.point = scan, buffers, point
        self.first = tasks.first(task)
        self.members, self.grouped = tasks.members(self.first), tasks.grouped
        # The carry of this step and of the one before, in fp32, and a row per other output.
        self.carry = T.alloc_buffer((tasks.group, 2, scan.width), CARRY)
        self.rows = [None if common.is_carry(scan, o) else T.alloc_buffer((scan.width,), CARRY) for o in scan.outputs]

    def emit(self) -> None:
        scan = self.scan
        if scan.init is not None:
            with T.serial(0, self.members) as m, T.serial(0, scan.width) as l:
                here = self._element(scan.init, self._position(m, tirx.const(0, "int64"), l))
                T.buffer_store(self.carry, here.astype(CARRY), [m, 1, l])
        with T.serial(0, scan.steps) as step, T.serial(0, self.members) as m:
            if self.point.ahead:
                self._prefetch(m, tirx.min(step + self.point.ahead, scan.steps - 1))
            for kind in common.kinds(scan, step):
                with T.If(kind.when), T.Then():
                    self._step(kind, step, m)
            for output, row in zip(scan.outputs, self.rows, strict=True):
                self._publish(output, row, step, m)
        if scan.flush is not None:
            with T.serial(0, self.members) as m:
                self._flush(scan.flush, m)
        if self.point.stream:
            T.evaluate(T.call_extern("int32", "treadle_stream_end"))

    def _step(self, kind: common.Kind, step: Expr, m: Expr) -> None:
        def cell(at: common.Cell) -> None:
            carried = self._carried(step, m, at.position)
            here = [m, step % 2, at.position]
            T.buffer_store(self.carry, ex.add(at.value(self.scan.source), at.terms(carried)), here)
            carry = self.carry[*here]  # not T.bind: TVM 0.27 forgets to decode bfloat16 loads inside one
            for output, row in zip(self.scan.outputs, self.rows, strict=True):
                if row is not None:
                    value = at.value(output.value, carry)
                    if output.shared:
                        value = tirx.Select(m == 0, value, row[at.position] + value)
                    T.buffer_store(row, value, [at.position])

        common.emit_line(self.scan, kind, lambda read, l: self._load(read, step, m, l), cell)

    def _flush(self, flush: Output, m: Expr) -> None:
        def cell(at: common.Cell) -> None:
            value = at.terms(self._carried(self.scan.steps, m, at.position))
            index = flush.index(self._position(m, tirx.const(0, "int64"), at.position))
            value = at.value(flush.value, value)
            T.buffer_store(self.buffers[flush.tensor.op.name], value.astype(flush.tensor.dtype), list(index))

        kind = common.Kind(tirx.const(True, "bool"), carries=True, earlier=True, later=False)
        common.emit_line(self.scan, kind, lambda read, l: self._load(read, self.scan.steps, m, l), cell)

    def _publish(self, output: Output, row: tirx.Var | None, step: Expr, m: Expr) -> None:
        """Write a finished row, rounded once; a summed row only when its last member has been added."""
        if output.shared:
            with T.If(m == self.members - 1), T.Then():
                self._write(output, row, [], step, m)
        elif row is None:
            self._write(output, self.carry, [m, step % 2], step, m)
        else:
            self._write(output, row, [], step, m)

    def _write(self, output: Output, row: tirx.Var, prefix: Sequence[Expr], step: Expr, m: Expr) -> None:
        scan, tensor = self.scan, output.tensor
        target, kind = self.buffers[tensor.op.name], str(tensor.dtype)
        if not (self.point.stream and common.runs_along(output.index, len(scan.sizes), scan.line)):
            with T.serial(0, scan.width) as l:
                index = output.index(self._position(m, scan.time(step), l))
                T.buffer_store(target, row[*prefix, l].astype(kind), list(index))
            return
        zero = tirx.const(0, "int64")
        start = target[*output.index(self._position(m, scan.time(step), zero))]
        arguments = T.address_of(start), T.address_of(row[*prefix, zero]), scan.width, common.bytes_of(tensor)
        T.evaluate(T.call_extern("int32", f"treadle_stream_{kind}", *arguments))

    def _prefetch(self, m: Expr, step: Expr) -> None:
        seen: list[Expr] = []
        for read in common.used_reads(self.scan):
            if not common.runs_along(read.index, len(self.scan.sizes), self.scan.line):
                continue
            per_line = 64 // find_dtype(str(read.tensor.dtype)).itemsize
            with T.serial(0, tirx.ceildiv(self.scan.width, per_line)) as i:
                element = self._element(read, self._position(m, self.scan.time(step), i * per_line))
                T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", T.address_of(element), T.int32(0), T.int32(2), T.int32(1)))

    def _carried(self, step: Expr, m: Expr, l: Expr):
        return lambda offset: self.carry[m, (step + 1) % 2, l + offset]

    def _load(self, read: Read, step: Expr, m: Expr, l: Expr) -> Expr:
        return self._element(read, self._position(m, self.scan.time(step - read.back), l + read.shift))

    def _element(self, read: Read, position: Sequence[Expr]) -> Expr:
        return self.buffers[read.tensor.op.name][*read.index(position)]

    def _position(self, m: Expr, time: Expr, l: Expr) -> list[Expr]:
        at = {**self.first, self.scan.axis: time, self.scan.line: l}
        if self.grouped is not None:
            at[self.grouped] = at[self.grouped] + m
        return [at[a] for a in range(len(self.scan.sizes))]
