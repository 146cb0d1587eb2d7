"""Channels: a thread to a channel of a sequence, its new steps in order, then its state.

Where channels are contiguous (bld) neighbouring threads read neighbouring elements; where time is (bdl) a thread's W elements
lie side by side, and a warp's 32 channels fill whole lines together. Moves:

1. *sums before the state*: all of a channel's results are made by one thread before it writes what it has read.
2. *cases by step*: which taps read the state and which x depends on the step alone, so that a warp never parts.

Floor: x and W kept steps read, y and the state written. A call of decoding moves some hundred bytes a channel: latency and
launch, 2 to 3 us, are its time up to batches of dozens. Nothing was timed.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir.expr import Expr
from treadle.ir.ops.scan import slots
from treadle.schedules import cuda_moves as moves
from treadle.schedules.conv_update_family import Step, applies
from treadle.schedules.emit import Function, at, value
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

SERIAL = True


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(128, (32, 64, 128, 256), "threads of a block: channels of a sequence")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return []


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    step = Step.of(program)
    sequences, _, channels = step.sizes
    columns = tirx.ceildiv(channels, moves.i64(point.threads))
    function = Function(program)
    with function as buffers, moves.blocks(sequences * columns) as block, moves.phase(point.threads) as thread:
        i, column = (v.astype("int64") for v in moves.split_block(block, columns))
        c = column * point.threads + thread
        with moves.when(c < channels):
            _channel(step, buffers, i, c)
    return function.primfunc


def _channel(step: Step, buffers: dict[str, tirx.Var], i: Expr, c: Expr) -> None:
    if not step.slotted:
        _known(step, buffers, i, c, None)
        return
    slot = moves.hold(buffers["slots"][i])
    with T.If(slots.inside(slot.astype("int64"), step.slots)):
        with T.Then():
            _known(step, buffers, i, c, slot)
        with T.Else(), T.serial(moves.i64(0), step.sizes[1]) as t:
            T.buffer_store(buffers["y"], tirx.const(0.0, step.program.dtype), list(step.place(i, t, c)))


def _known(step: Step, buffers: dict[str, tirx.Var], i: Expr, c: Expr, slot: Expr | None) -> None:
    load = step.load(buffers, slot)
    total = moves.Registers.private(1, "float32")
    with T.serial(moves.i64(0), step.sizes[1]) as t:
        for early in range(step.width):
            with moves.when(t == step.width - 1 - early if early else t >= step.width - 1):
                total.store(0, step.pre((i, t, c), early, load))
        T.buffer_store(buffers["y"], step.y(total[0]), list(step.place(i, t, c)))
    update = step.update
    with T.serial(moves.i64(0), step.place(*update.value.shape)[1]) as q:
        where = step.place(i, q, c)
        with moves.when(at(update.where(*where), [], [], load)):
            place = [at(e, [], [], load) for e in update.place(*where)]
            T.buffer_store(buffers["state"], value(update.value, where, load), place)
