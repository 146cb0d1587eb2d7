"""Convolution update: a few steps against kept ones, where they lie, for scan.causal_conv1d_update. It exploits:

1. Cores. Blocks of channels of a sequence are independent.
2. L1. All sums of a block are made before its state is written; a step's sums wait in L1 for the activation.
3. Vectors. Which taps read the state and which x depends on the step alone, so that each case has a loop over channels of
   its own, and exponentials run in lanes whatever the layout.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.expr import Expr
from treadle.ir.ops.scan import slots
from treadle.schedules import moves
from treadle.schedules.conv_update_family import Step, applies
from treadle.schedules.cpu import preconditions, vecmath
from treadle.schedules.cpu.loops import parallel_where
from treadle.schedules.cpu.rows import PARALLEL_FROM
from treadle.schedules.cuda_moves import hold
from treadle.schedules.emit import Function, Load, at, value
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["Knobs", "applies", "default", "legal", "schedule"]


@dataclass(frozen=True)
class Knobs:
    channels: int = knob(128, (32, 128, 512), "channels of a block: fewer make more tasks")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return []


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    step = Step.of(program)
    sequences, _, channels = step.sizes
    function = Function(program)
    with function as buffers:
        preconditions.emit(program, buffers)
        work = moves.elements(program.results[0]) + moves.elements(step.update.value)
        columns = tirx.truncdiv(channels + (point.channels - 1), tirx.const(point.channels, "int64"))

        def task(index: Expr) -> None:
            i, column = hold(tirx.truncdiv(index, columns)), hold(tirx.truncmod(index, columns))
            c = hold(column * point.channels)
            _Block(step, buffers, point, i, c, hold(tirx.min(channels - c, tirx.const(point.channels, "int64")))).emit()

        parallel_where(dm.simplify(work + 8 * program.exps >= PARALLEL_FROM), dm.simplify(sequences * columns), task)
    return vecmath.vectorise(moves.speculate_selects(function.primfunc))


@dataclass(frozen=True)
class _Block:
    """`channels` channels of sequence i from c."""

    step: Step
    buffers: dict[str, tirx.Var]
    point: Knobs
    i: Expr
    c: Expr
    channels: Expr

    def emit(self) -> None:
        step = self.step
        if not step.slotted:
            self._known(None)
            return
        slot = hold(self.buffers["slots"][self.i])
        with T.If(slots.inside(slot.astype("int64"), step.slots)):
            with T.Then():
                self._known(slot)
            with T.Else(), T.serial(0, step.sizes[1]) as t, T.serial(0, self.channels) as column:
                zero = tirx.const(0.0, "float32").astype(step.program.dtype)
                T.buffer_store(self.buffers["y"], zero, list(step.place(self.i, t, self.c + column)))

    def _known(self, slot: Expr | None) -> None:
        step, size = self.step, self.point.channels
        load = step.load(self.buffers, slot)
        sums, results = (
            T.alloc_buffer((size,), "float32", scope="local"),
            T.alloc_buffer((size,), step.program.dtype, scope="local"),
        )
        with T.serial(0, step.sizes[1]) as t:
            for early in range(step.width):
                here = t == step.width - 1 - early if early else t >= step.width - 1
                with T.If(here), T.Then(), T.serial(0, self.channels) as column:
                    T.buffer_store(sums, step.pre((self.i, t, self.c + column), early, load), [column])
            with T.serial(0, self.channels) as column:
                T.buffer_store(results, step.y(sums[column]), [column])
            with T.serial(0, self.channels) as column:
                T.buffer_store(self.buffers["y"], results[column], list(step.place(self.i, t, self.c + column)))
        self._keep(load)

    def _keep(self, load: Load) -> None:
        """Write the state, in rising order: what moves up is read before anything is written over it."""
        update = self.step.update
        steps = self.step.place(*update.value.shape)[1]

        first, second = (steps, self.channels) if self.step.channels_last else (self.channels, steps)
        with T.serial(0, first) as a, T.serial(0, second) as b:
            q, column = (a, b) if self.step.channels_last else (b, a)
            where = self.step.place(self.i, q, self.c + column)
            with T.If(at(update.where(*where), [], [], load)), T.Then():
                place = [at(e, [], [], load) for e in update.place(*where)]
                T.buffer_store(self.buffers["state"], value(update.value, where, load), place)
