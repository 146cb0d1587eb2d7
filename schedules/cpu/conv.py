"""Convolution: tiles of time and channel, forward and backward, for scan.causal_conv1d and its adjoint. It exploits:

1. Cores. Tiles are independent: a channel of a batch where time is contiguous, else some steps of all channels; backward
   one part of the weight's gradient. How they are cut depends on no batch size.
2. L1. The backward keeps g = dy act'(pre) of its tile, with the few steps beyond it that reach into it, in L1.
3. Vectors. Along whichever of time and channel is contiguous, LLVM vectorises plain loops; the first steps, which read
   `initial`, have a loop of their own, so that the others ask nothing. Sums over time run in lanes side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.expr import Expr
from treadle.schedules import moves
from treadle.schedules.conv_family import Conv
from treadle.schedules.cpu import vecmath
from treadle.schedules.cpu.loops import parallel_where
from treadle.schedules.cpu.rows import PARALLEL_FROM
from treadle.schedules.emit import Function, value
from treadle.schedules.space import knob
from treadle.schedules.target import Target

#: Lanes of a sum over time.
LANES = 16


@dataclass(frozen=True)
class Knobs:
    steps: int = knob(64, (16, 64, 256), "steps of a tile where channels are contiguous: fewer make more tasks")
    channels: int = knob(
        32, (16, 32, 64), "channels of a tile of the backward: its g is 256 steps of them, and stays in L1 or L2"
    )


def applies(program: Program) -> bool:
    return program.name in ("scan.causal_conv1d", "scan.causal_conv1d_adjoint")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return []


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    conv = Conv.of(program)
    function = Function(program)
    with function as buffers:
        work = sum((moves.elements(t) for t in (*program.args, *program.results)), tirx.const(0, "int64"))
        pays = dm.simplify(work + 8 * program.exps >= PARALLEL_FROM)
        batch, steps, channels = conv.sizes
        if conv.backward:
            along, across = conv.chunk, point.channels if conv.channels_last else 1
        else:
            along, across = (point.steps, None) if conv.channels_last else (None, 1)
        long = steps if along is None else tirx.const(along, "int64")
        wide = channels if across is None else tirx.const(across, "int64")
        tiles, columns = _ceildiv(steps, long), _ceildiv(channels, wide)

        def task(index: Expr) -> None:
            # Truncating: TVM proves no sign here, and would pay for a floor division at every use.
            # What is contiguous comes next: a tile a channel's pitch away is memory that no prefetcher foresees.
            near, far = (columns, tiles) if conv.channels_last else (tiles, columns)
            first, rest = tirx.truncmod(index, near), tirx.truncdiv(index, near)
            second, i = tirx.truncmod(rest, far), tirx.truncdiv(rest, far)
            column, tile = (first, second) if conv.channels_last else (second, first)
            t, c = T.bind(tile * long), T.bind(column * wide)
            body = _Tile(
                conv, buffers, T.bind(i), t, T.bind(tirx.min(long, steps - t)), c, T.bind(tirx.min(wide, channels - c))
            )
            body.backward(T.bind(tile), along or 0, across or 1) if conv.backward else body.forward()

        parallel_where(pays, dm.simplify(batch * tiles * columns), task)
    return vecmath.vectorise(moves.speculate_selects(function.primfunc))


def _ceildiv(a: Expr, b: Expr) -> Expr:
    return tirx.truncdiv(a + b - 1, b)


@dataclass(frozen=True)
class _Tile:
    """Batch i, `steps` steps from t, `channels` channels from c."""

    conv: Conv
    buffers: dict[str, tirx.Var]
    i: Expr
    t: Expr
    steps: Expr
    c: Expr
    channels: Expr

    def forward(self) -> None:
        (y,) = self.conv.program.results
        self._twice(lambda t, c, early: self._store(y, t, c, self._load(early)))

    def backward(self, part: Expr, most_steps: int, most_channels: int) -> None:
        conv, reach = self.conv, self.conv.width - 1
        size = ((most_steps + 2 * reach) * most_channels,)
        # Both begin with the tile's first step of their own count: g_around[t] is g[t - reach].
        past, around = (T.alloc_buffer(size, "float32", scope="local") for _ in range(2))

        def slot(step: Expr, c: Expr) -> Expr:
            return (step - self.t) * most_channels + (c - self.c)

        def load(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
            for stage, held, later in ((conv.past, past, 0), (conv.around, around, 0), (conv.g, around, reach)):
                if tensor.same_as(stage):
                    _, step, c = conv.place(*index)
                    return held[slot(step + later, c)]
            if isinstance(tensor.op, te.PlaceholderOp):
                return self.buffers[tensor.op.name][*index]
            if tensor.op.name == "same":
                # dpast asks it of steps before and beyond the sequence too, whose g is 0 whatever it says.
                i, t, k = index
                index = [i, tirx.max(tirx.min(t, conv.sizes[1] - 1), tirx.const(0, "int64")), k]
            # A stage read through another is held too: asked elsewhere, dpast would work out g again for every tap.
            return value(tensor, list(index), load)

        def keep_past(s: Expr, c: Expr, early: bool) -> None:
            here = self._load(early)(conv.past, conv.place(self.i, s, c))
            T.buffer_store(past, here, [slot(s, c)])

        beyond = T.bind(tirx.min(self.steps + reach, conv.sizes[1] - self.t))
        self._twice(keep_past, beyond + reach)
        with self._loops(tirx.const(0, "int64"), self.steps + 2 * reach) as (step, column):
            T.buffer_store(around, tirx.const(0.0, "float32"), [slot(self.t + step, self.c + column)])
        with self._loops(tirx.const(0, "int64"), beyond) as (step, column):
            t, c = self.t + step, self.c + column
            T.buffer_store(around, value(conv.g, conv.place(self.i, t, c), load), [slot(t + reach, c)])

        with self._loops(tirx.const(0, "int64"), self.steps) as (step, column):
            self._store(conv.result("dx"), self.t + step, self.c + column, load)
        with T.If(part == 0), T.Then(), self._loops(tirx.const(0, "int64"), tirx.const(reach, "int64")) as (step, column):
            self._store(conv.result("dinitial"), step, self.c + column, load)
        self._sums(part, most_channels, load)

    def _sums(self, part: Expr, most_channels: int, load: Callable[[te.Tensor, Sequence[Expr]], Expr]) -> None:
        """The parts of the gradients of weight and bias, added up in float64: in which order, a float32 does not tell."""
        outputs = [("dweight", [self.i, part, tirx.const(k, "int64")]) for k in range(self.conv.width)]
        outputs.append(("dbias", [self.i, part]))
        if not self.conv.channels_last:
            for name, at in outputs:
                self._sum_along(name, [*at, self.c], load)
            return
        sums = T.alloc_buffer((len(outputs) * most_channels,), "float64", scope="local")
        with T.serial(0, len(outputs) * most_channels) as slot:
            T.buffer_store(sums, tirx.const(0.0, "float64"), [slot])
        with T.serial(0, self.steps) as step, T.serial(0, self.channels) as column:
            for o, (name, at) in enumerate(outputs):
                term = self.conv.term(self.conv.result(name), [*at, self.c + column], step, load)
                T.buffer_store(sums, sums[o * most_channels + column] + term.astype("float64"), [o * most_channels + column])
        for o, (name, at) in enumerate(outputs):
            with T.serial(0, self.channels) as column:
                total = sums[o * most_channels + column].astype("float32")
                T.buffer_store(self.buffers[name], total, [*at, self.c + column])

    def _sum_along(self, name: str, index: Sequence[Expr], load: Callable[[te.Tensor, Sequence[Expr]], Expr]) -> None:
        tensor = self.conv.result(name)
        each = T.alloc_buffer((LANES,), "float64", scope="local")
        total = T.alloc_buffer((1,), "float64", scope="local")
        with T.vectorized(0, LANES) as lane:
            T.buffer_store(each, tirx.const(0.0, "float64"), [lane])
        whole = tirx.truncdiv(self.steps, LANES)
        with T.serial(0, whole) as step, T.vectorized(0, LANES) as lane:
            term = self.conv.term(tensor, index, step * LANES + lane, load)
            T.buffer_store(each, each[lane] + term.astype("float64"), [lane])
        T.buffer_store(total, tirx.const(0.0, "float64"), [0])
        with T.serial(0, LANES) as lane:
            T.buffer_store(total, total[0] + each[lane], [0])
        with T.serial(0, self.steps - whole * LANES) as rest:
            term = self.conv.term(tensor, index, whole * LANES + rest, load)
            T.buffer_store(total, total[0] + term.astype("float64"), [0])
        T.buffer_store(self.buffers[name], total[0].astype("float32"), list(index))

    def _twice(self, visit: Callable[[Expr, Expr, bool], None], steps: Expr | None = None) -> None:
        """Visit every step and channel, those steps first that read `initial`."""
        steps = self.steps if steps is None else steps
        first = T.bind(tirx.min(steps, tirx.max(self.conv.width - 1 - self.t, tirx.const(0, "int64"))))
        for start, count, early in ((tirx.const(0, "int64"), first, True), (first, steps - first, False)):
            with self._loops(start, count) as (step, column):
                visit(self.t + step, self.c + column, early)

    @contextmanager
    def _loops(self, start: Expr, steps: Expr) -> Iterator[tuple[Expr, Expr]]:
        """Over steps from `start` and the channels of the tile, what is contiguous innermost."""
        if self.conv.channels_last:
            with T.serial(0, steps) as step, T.serial(0, self.channels) as column:
                yield start + step, column
        else:
            with T.serial(0, self.channels) as column, T.serial(0, steps) as step:
                yield start + step, column

    def _store(self, tensor: te.Tensor, t: Expr, c: Expr, load: Callable[[te.Tensor, Sequence[Expr]], Expr]) -> None:
        at = self.conv.place(self.i, t, c)
        T.buffer_store(self.buffers[tensor.op.name], value(tensor, at, load), list(at))

    def _load(self, early: bool) -> Callable[[te.Tensor, Sequence[Expr]], Expr]:
        """Operands from memory and stages worked out in place; late steps read x without asking whether it is there."""

        def load(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
            if tensor.same_as(self.conv.past) and not early:
                i, s, c = self.conv.place(*index)
                x = self.buffers["x"][*self.conv.place(i, s - (self.conv.width - 1), c)]
                return x.astype("float32")
            if isinstance(tensor.op, te.PlaceholderOp):
                return self.buffers[tensor.op.name][*index]
            return value(tensor, list(index), load)

        return load
