"""State update: states stepped on where they lie, for scan.selective_state_update. It exploits:

1. The bus. A state is read and written once, in place, so that no line is fetched only to be overwritten; for several tokens
   a head's states, some 32 KB, stay in L1 or L2 from one to the next.
2. Cores. Heads of sequences are independent; how a state is summed depends on nothing beside it.
3. Vectors. States of a channel lie side by side: decay, source, rounding and the sum of the output run in lanes of them.
   What follows the sum, the skip and the gate, waits until several channels are done, and then runs in lanes of channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.expr import Expr
from treadle.ir.ops import random
from treadle.schedules import moves
from treadle.schedules.cpu import preconditions, vecmath
from treadle.schedules.cpu.loops import parallel_where
from treadle.schedules.cpu.rows import PARALLEL_FROM
from treadle.schedules.cuda_moves import hold
from treadle.schedules.emit import Function
from treadle.schedules.space import knob
from treadle.schedules.state_family import Step, applies
from treadle.schedules.target import Target

__all__ = ["Knobs", "applies", "default", "legal", "schedule"]


@dataclass(frozen=True)
class Knobs:
    lanes: int = knob(16, (8, 16, 32), "states side by side: partial sums enough to hide the latency of an addition")
    channels: int = knob(16, (8, 16, 32), "channels whose outputs wait to be finished together")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return []


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    step = Step.of(program)
    s, _, g, r, _, n = step.sizes
    function = Function(program)
    with function as buffers:
        preconditions.emit(program, buffers)
        pays = dm.simplify(moves.elements(step.stages["y"]) * n >= PARALLEL_FROM)

        def task(index: Expr) -> None:
            group, head = tirx.truncdiv(index, r), tirx.truncmod(index, r)
            i, group = tirx.truncdiv(group, g), tirx.truncmod(group, g)
            _Head(step, buffers, point, hold(i), hold(group), hold(head)).emit()

        parallel_where(pays, dm.simplify(s * g * r), task)
    return vecmath.vectorise(moves.speculate_selects(function.primfunc))


class _Head:
    """One head of one sequence."""

    def __init__(self, step: Step, buffers: dict[str, tirx.Var], point: Knobs, i: Expr, group: Expr, head: Expr) -> None:
        self.step, self.buffers, self.point = step, buffers, point
        self.i, self.head = i, (group, head)
        _, self.tokens, _, _, self.p, self.n = step.sizes
        self.slot = hold(step.slot(i, buffers))

    def emit(self) -> None:
        self.sums = T.alloc_buffer((self.point.lanes,), "float32", scope="local")
        self.rest = T.alloc_buffer((1,), "float32", scope="local")
        self.dots = T.alloc_buffer((self.point.channels,), "float32", scope="local")
        self.new = T.alloc_buffer((self.point.lanes,), "float32", scope="local")
        if self.step.stochastic:
            # One block more than the lanes fill: they may begin inside one.
            self.bits = T.alloc_buffer((self.point.lanes + random.SHARE,), "uint32", scope="local")
        there = self.step.there(self.slot)
        if there is True:
            self._tokens()
            return
        with T.If(there):
            with T.Then():
                self._tokens()
            with T.Else():
                self._nothing()

    def _nothing(self) -> None:
        zero = tirx.const(0.0, "float32")
        with T.serial(0, self.tokens) as t, T.serial(0, self.p) as c:
            T.buffer_store(self.buffers["y"], zero.astype(self.step.program.dtype), [self.i, t, *self.head, c])
            if self.step.history:
                with T.serial(0, self.n) as m:
                    T.buffer_store(self.buffers["states"], zero.astype(self.step.kind), [self.i, t, *self.head, c, m])

    def _tokens(self) -> None:
        point = self.point
        with T.serial(0, self.tokens) as t:
            held = self._factors(t, None) if self.step.tied else None
            with T.serial(0, tirx.truncdiv(self.p + (point.channels - 1), point.channels)) as part:
                first = hold(part * point.channels)
                some = hold(tirx.min(self.p - first, tirx.const(point.channels, "int64")))
                with T.serial(0, some) as q:
                    self._channel(t, first + q, q, held)
                with T.serial(0, some) as q:
                    at = (self.i, t, *self.head, first + q)
                    T.buffer_store(self.buffers["y"], self.step.stage("y", at, self.step.load(self.buffers, dot=self.dots[q])), list(at))

    def _factors(self, t: Expr, c: Expr | None) -> dict[str, Expr]:
        """The step size of a head or a channel, and where it is the same for all states, the decay."""
        at = (self.i, t, *self.head, *(() if c is None else (c,)))
        delta = self.step.delta(at, self.step.load(self.buffers), hold)
        if c is not None:
            return {"delta": delta}
        return {"delta": delta, "decay": hold(self.step.stage("decay", at, self.step.load(self.buffers, delta=delta)))}

    def _channel(self, t: Expr, c: Expr, q: Expr, held: dict[str, Expr] | None) -> None:
        lanes, n = self.point.lanes, self.n
        held = self._factors(t, c) if held is None else held
        at = (self.i, t, *self.head, c)
        with T.vectorized(0, lanes) as lane:
            T.buffer_store(self.sums, tirx.const(0.0, "float32"), [lane])
        with T.serial(0, tirx.truncdiv(n, lanes)) as step:
            first = hold(step * lanes)
            start = self._draw(t, c, first, lanes)
            with T.vectorized(0, lanes) as lane:
                self._state(at, first + lane, lane, start, held)
                term = self.step.term(at, first + lane, self.step.load(self.buffers, after=self.new[lane]))
                T.buffer_store(self.sums, self.sums[lane] + term, [lane])
        T.buffer_store(self.rest, tirx.const(0.0, "float32"), [0])
        with T.serial(0, tirx.truncmod(n, lanes)) as last:
            m = hold(tirx.truncdiv(n, lanes) * lanes + last)
            start = self._draw(t, c, m, 1)
            zero = tirx.const(0, "int32")
            self._state(at, m, zero, start, held)
            term = self.step.term(at, m, self.step.load(self.buffers, after=self.new[zero]))
            T.buffer_store(self.rest, self.rest[0] + term, [0])
        T.buffer_store(self.dots, self._across() + self.rest[0], [q])

    def _state(self, at: Sequence[Expr], m: Expr, lane: Expr, start: Expr | None, held: dict[str, Expr]) -> None:
        """One state of a channel, stepped on and kept."""
        t, c = at[1], at[-1]
        mine = [self.slot, *self.head, c, m]
        before = self.buffers["state"][*mine]
        T.buffer_store(self.new, self.step.stage("after", (*at, m), self.step.load(self.buffers, before=before, **held)), [lane])
        noise = {} if start is None else {"noise": self.bits[start + lane]}
        kept = self.step.stage("kept", (*at, m), self.step.load(self.buffers, after=self.new[lane], **noise))
        T.buffer_store(self.buffers["state"], kept, mine)
        if self.step.history:
            T.buffer_store(self.buffers["states"], self.buffers["state"][*mine], [self.i, t, *self.head, c, m])

    def _draw(self, t: Expr, c: Expr, first: Expr, count: int) -> Expr | None:
        """Random bits for some states from `first`, which then begin at the place returned."""
        if not self.step.stochastic:
            return None
        element = self.slot
        for size, index in zip(self.step.program.args[0].shape[1:], (*self.head, c, first), strict=True):
            element = element * size + index
        element = hold(element)
        with T.serial(0, (count + random.SHARE - 2) // random.SHARE + 1) as block:
            words = self.step.words(tirx.truncdiv(element, random.SHARE) + block, t, self.buffers, hold)
            for place in range(random.SHARE):
                T.buffer_store(self.bits, random.share(words, place), [block * random.SHARE + place])
        return hold(tirx.truncmod(element, random.SHARE))

    def _across(self) -> Expr:
        """The lanes, added up in pairs."""
        width = self.point.lanes
        while width > 1:
            width //= 2
            with T.vectorized(0, width) as lane:
                T.buffer_store(self.sums, self.sums[lane] + self.sums[lane + width], [lane])
        return self.sums[0]
