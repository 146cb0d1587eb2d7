"""Lines along the contiguous axis (t2b, b2t): one row after the other, each a handful of streams.

Exploits: a step reads and writes whole rows, in the order of memory; the carry is one row, in L1. Correct for every Scan.

Learned at 4x64x256x256 fp32 (AMD EPYC Zen 4, 2 cores, 2026-11-24): the floor is five reads and one streaming write, which a
loop without recurrence moves at 82 % of the best copy; t2b and b2t reach 80-84 %. Descending rows taken in ascending blocks
reached 55 %, the guarded ends of a line one position at a time 60 %, values recomputed from memory cells per block 53-65 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir import Program
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read
from treadle.schedules.cpu import scan_common as common
from treadle.schedules.cpu import scan_tasks, streaming
from treadle.schedules.cpu.scan_common import PAD, Cell, Line, Step
from treadle.schedules.cpu.scan_tasks import Task
from treadle.schedules.space import knob
from treadle.schedules.target import Target


@dataclass(frozen=True)
class Knobs:
    together: int = knob(2, (1, 2, 4), "positions sharing a gate line that are walked together, so that it is read once")
    ahead: int = knob(1, (0, 1, 4), "rows prefetched ahead of the walk; the hardware follows by itself, but late")
    stream: int = streaming.KNOB


def applies(program: Program) -> bool:
    return program.scan is not None


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    assert program.scan is not None
    return common.refusals(program.scan)


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    return scan_tasks.parallel(program, target, point.together, lambda task: _Walk(task, point).emit())


class _Walk:
    """One task: a few independent positions walked from the first step to the last, side by side."""

    def __init__(self, task: Task, point: Knobs) -> None:
        scan = task.scan
        self.task, self.scan, self.point = task, scan, point

        # Vectors where everything follows the line in memory; else one position after the other.
        reads, outputs = common.used_reads(scan).values(), scan.outputs
        plain = all(common.runs_along(scan, x.index, scan.line) for x in (*reads, *outputs))
        width = 64 // min(find_dtype(str(x.tensor.dtype)).itemsize for x in (*reads, *outputs))
        self.line = Line(scan, task.lanes if plain else 0, max(width, task.lanes))

        # The carry of this step and of the one before; padded copies of rows that are read shifted or may not exist.
        pitch = tirx.shift_left(tirx.shift_right(scan.width + 3 * PAD - 1, tirx.const(4, "int64")), tirx.const(4, "int64"))
        self.carry = T.alloc_buffer((task.group, 2, pitch), CARRY)
        self.copies = {
            name: T.alloc_buffer((pitch,), CARRY)
            for name, group in common.streams(scan).items()
            if any(r.shift or r.back for r in group)
        }
        self.rows = [None if self._is_carry(o) else T.alloc_buffer((scan.width,), CARRY) for o in outputs]

    def emit(self) -> None:
        scan, zero = self.scan, tirx.const(0, "int64")
        if scan.init is not None:
            with T.serial(0, self.task.members) as m, T.serial(0, scan.width) as j:
                T.buffer_store(self.carry, self._at(scan.init, m, zero, j).astype(CARRY), [m, 1, PAD + j])
        with T.serial(0, scan.steps) as step, T.serial(0, self.task.members) as m:
            self._step(Step.of(scan, step), step, m)
        if scan.flush is not None:
            with T.serial(0, self.task.members) as m:
                self._flush(scan.flush, m)
        if self.point.stream:
            streaming.fence()

    def _step(self, around: Step, step: Expr, m: Expr) -> None:
        scan = self.scan
        self._copy(around, step, m)
        lead, past = self._streaming(step, m)

        def cell(at: Cell) -> None:
            here = [m, step % 2, PAD + at.position]
            T.buffer_store(self.carry, at.carry(self._carried(step, m, at.position)), here)
            carry = self.carry[*here]  # not T.bind: TVM 0.27 forgets to decode bfloat16 loads inside one
            for output, row in zip(scan.outputs, self.rows, strict=True):
                if row is not None:
                    value = at.value(output.value, carry)
                    value = tirx.Select(m == 0, value, row[at.position] + value) if output.shared else value
                    T.buffer_store(row, value, [at.position])

        def done(start: Expr, count: Expr | None) -> None:
            for output, row, streams in zip(scan.outputs, self.rows, past, strict=True):
                with T.If(m == self.task.members - 1 if output.shared else tirx.const(True, "bool")), T.Then():
                    self._write(output, row, step, m, start, count, streams)

        def ahead(start: Expr) -> None:
            later = tirx.min(step + self.point.ahead, scan.steps - 1)
            for group in common.streams(scan).values() if self.point.ahead else ():
                # Into L2 (locality 2): rows of all tensors often meet in the same few sets of L1.
                element = self._at(group[0], m, scan.time(later), start)
                T.evaluate(
                    T.call_llvm_intrin("void", "llvm.prefetch", T.address_of(element), T.int32(0), T.int32(2), T.int32(1))
                )

        self.line.emit(around, lambda read, j: self._load(read, step, m, j), cell, lead, ahead, done)

    def _copy(self, around: Step, step: Expr, m: Expr) -> None:
        true = tirx.const(True, "bool")
        for name, group in common.streams(self.scan).items():
            if name not in self.copies:
                continue
            read, time = group[0], self.scan.time(step - group[0].back)
            within = around.within(read)
            for source, here in ((read, true if within is None else within), (read.beyond, around.last)):
                if source is not None:
                    with T.If(here), T.Then(), T.serial(0, self.scan.width) as j:
                        T.buffer_store(self.copies[name], self._at(source, m, time, j).astype(CARRY), [PAD + j])

    def _streaming(self, step: Expr, m: Expr) -> tuple[Expr | None, list[Expr | None]]:
        """The positions before the first vector, and for each output whether its vectors go past the caches."""
        if not (self.point.stream and self.line.lanes):
            return None, [None] * len(self.scan.outputs)
        zero, found, lead = tirx.const(0, "int64"), [], None
        for output in self.scan.outputs:
            buffer = self.task.buffers[output.tensor.op.name]
            index = output.index(self.task.position(m, self.scan.time(step), zero))
            before = common.opaque(streaming.lead(buffer, index))
            large = streaming.pays(output.tensor, self.point.stream)
            lead = common.opaque(tirx.Select(large, before, zero)) if lead is None else lead
            found.append(common.flag(tirx.all(large, before == lead)))
        return lead, found

    def _write(
        self, output: Output, row: tirx.Var | None, step: Expr, m: Expr, start: Expr, count: Expr | None, streams: Expr | None
    ) -> None:  # fmt: skip
        """Write finished positions, rounded once: `count` of them, or a block in vectors."""
        buffer, lanes = self.task.buffers[output.tensor.op.name], self.line.lanes

        def finished(j: Expr, vector: bool = False) -> Expr:
            start = j if row is not None else PAD + j
            at = T.ramp(start, 1, lanes) if vector else start
            return self.carry[m, step % 2, at] if row is None else row[at]

        def store(j: Expr) -> None:
            T.buffer_store(buffer, finished(j).astype(f"{output.tensor.dtype}"), list(where(j)))

        def where(j: Expr) -> Sequence[Expr]:
            return output.index(self.task.position(m, self.scan.time(step), j))

        if count is not None:
            with T.serial(0, count) as i:
                store(start + i)
            return
        with T.If(tirx.const(False, "bool") if streams is None else streams):
            with T.Then(), T.serial(0, self.line.block // lanes) as v:
                streaming.store(buffer, where(start + v * lanes), finished(start + v * lanes, vector=True))
            with T.Else(), T.serial(0, self.line.block // lanes) as v, T.vectorized(0, lanes) as lane:
                store(start + v * lanes + lane)

    def _flush(self, flush: Output, m: Expr) -> None:
        """What the terms carry one step beyond the last."""
        steps, true = self.scan.steps, tirx.const(True, "bool")
        false = tirx.const(False, "bool")
        around = Step(carries=true, earlier=true, later=false, last=false)

        def cell(at: Cell) -> None:
            value = at.value(flush.value, at.terms(self._carried(steps, m, at.position)))
            index = flush.index(self.task.position(m, tirx.const(0, "int64"), at.position))
            T.buffer_store(self.task.buffers[flush.tensor.op.name], value.astype(f"{flush.tensor.dtype}"), list(index))

        self._copy(around, steps, m)
        Line(self.scan, 0, 1).emit(around, lambda read, j: self._load(read, steps, m, j), cell)

    def _is_carry(self, output: Output) -> bool:
        """Whether an output is the carry itself, so that its row is already at hand."""
        return self.scan.carry.same_as(output.value) and not output.shared

    def _carried(self, step: Expr, m: Expr, j: Expr):
        return lambda offset: self.carry[m, (step + 1) % 2, PAD + j + offset]

    def _load(self, read: Read, step: Expr, m: Expr, j: Expr) -> Expr:
        copy = self.copies.get(common.stream_of(self.scan, read))
        return self._at(read, m, self.scan.time(step - read.back), j) if copy is None else copy[PAD + j + read.shift]

    def _at(self, read: Read, m: Expr, time: Expr, j: Expr) -> Expr:
        return self.task.buffers[read.tensor.op.name][*read.index(self.task.position(m, time, j))]
