"""Windows: a thread owns a few channels and walks along time, or a few steps of one channel; its window is in registers.

Where channels are contiguous (bld) a thread walks `steps` steps, the last width - 1 of them in registers, and neighbours take
neighbouring channels. Where time is contiguous (bdl) a thread takes the steps of one access and the few around them. Moves:

1. *the window in registers*: every element of x is read once, and the halo of width - 1 steps once more, from L1.
2. *wide accesses* where rows are multiples of them (known, or asked once by a branch that the whole grid takes together).
3. *g in a window too*: the backward works out g = dy act'(pre) as it walks, width - 1 steps beyond its own.
4. *weight gradients where they arise*: a thread that walks adds them up in two levels of 16 steps, so that a part of 256 loses
   few digits; threads side by side add theirs up through shared memory, in phases.

Floor: x read and y written once; backward dy, x read and dx written once. Arithmetic is not free with SiLU in bf16: an `expf` and
an IEEE division, some 20 instructions per element, where a multiprocessor has 34 issue slots. Predicted: 80 to 90 % of copy
bandwidth in fp32, 60 to 80 % in bf16; nothing was timed.

Compiler (sm_90a, nvcc 13.0, 2026-11-24), unknown sizes, fp32 and bf16: bld 62 and 105 registers forward, 140 and 154
backward; bdl 32 and 54, 52 and 64 with 1,664 bytes of shared memory; no spills.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.expr import Expr
from treadle.schedules import cuda_moves as moves
from treadle.schedules.conv_family import Conv
from treadle.schedules.emit import Function, Load, value
from treadle.schedules.norm.row_teams import Totals
from treadle.schedules.space import knob
from treadle.schedules.target import Target

#: The channel of a lane.
Channel = Callable[[int], Expr]

SERIAL = True
#: Steps whose weight gradients a walking thread adds up before it adds their sum to the part's.
LEVEL = 16


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(128, (32, 64, 128, 256), "threads of a block")
    steps: int = knob(32, (8, 16, 32, 64), "steps that a thread walks where channels are contiguous; the backward walks a part")
    access: int = knob(
        8, (2, 4, 8, 16), "bytes of one access: the channels or steps of a thread, each with a window in registers"
    )


def applies(program: Program) -> bool:
    return program.name in ("scan.causal_conv1d", "scan.causal_conv1d_adjoint")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    conv = Conv.of(program)
    lanes, run = moves.elements_of(point.access, program.dtype), _run(conv)
    reasons = moves.access_refusals(program, point.access)
    if lanes > 1 and moves.never_divides(lanes, run):
        reasons.append(f"rows of {dm.text(run)} elements are no multiple of the {lanes} of one access")
    if conv.backward and lanes > 4:
        reasons.append(f"{lanes} windows of x, g and sums do not fit the registers of a thread")
    if conv.backward and not conv.channels_last and conv.chunk // lanes > moves.MOST_THREADS:
        reasons.append(f"a part of {conv.chunk} steps takes more threads than a block has")
    return reasons


def default(program: Program, target: Target) -> Knobs:
    conv = Conv.of(program)
    most = 16 if not conv.backward else 4 * (4 if program.dtype == "float32" else 2)
    return Knobs(access=min(most, moves.widest(program, _run(conv))))


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    conv = Conv.of(program)
    function = Function(program)
    with function as buffers:
        lanes = moves.elements_of(point.access, program.dtype)
        (_Walk if conv.channels_last else _Side)(conv, buffers, point, lanes).emit()
    return function.primfunc


def _run(conv: Conv) -> Expr:
    """The elements that lie side by side."""
    return conv.sizes[2] if conv.channels_last else conv.sizes[1]


class _Windows:
    """What both ways of mapping share: stages worked out from windows in registers, at places counted from a base step."""

    def __init__(self, conv: Conv, buffers: dict[str, tirx.Var], point: Knobs, lanes: int) -> None:
        self.conv, self.buffers, self.point, self.lanes = conv, buffers, point, lanes
        self.batch, self.steps, self.channels = conv.sizes
        self.reach = conv.width - 1

    def read(self, name: str, i: Expr, t: Expr, c: Expr, inside: Expr | bool) -> Expr:
        """One element, or zero where it is not there."""
        where = self.conv.place(i, t, c)
        buffer = self.buffers[name]
        return (
            buffer[*where] if inside is True else tirx.if_then_else(inside, buffer[*where], tirx.const(0.0, str(buffer.dtype)))
        )

    def past(self, i: Expr, t: Expr, c: Expr, inside: Expr | bool) -> Expr:
        """What is convolved at step t, which may lie before the first."""
        early = self.read("initial", i, t + self.reach, c, inside)
        late = self.read("x", i, t, c, inside if inside is True else tirx.all(inside, t < self.steps))
        if inside is True:
            late = tirx.if_then_else(t < self.steps, late, tirx.const(0.0, str(self.buffers["x"].dtype)))
        return tirx.if_then_else(t < 0, early, late).astype("float32")

    def load(
        self, i: Expr, t: Expr, c: Expr, past: Callable[[int], Expr], g: Callable[[int], Expr], dy: Expr | None = None,
        weight: Callable[[int], Expr] | None = None,
    ) -> Load:  # fmt: skip
        """Reads of a stage worked out at step t, given index 0: `past(k)` and `g(k)` lie k steps on in their windows."""

        def read(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
            name = tensor.op.name
            if name == "past":
                return past(_number(self.conv.place(*index)[1]))
            if name == "same":
                return self._same(i, t + _number(index[1]), _number(index[2]))
            if name in ("g", "g_around"):
                return g(_number(self.conv.place(*index)[1]))
            if name == "weight":
                return weight(_number(index[0])) if weight else self.buffers["weight"][index[0], c]
            if name == "bias":
                return self.buffers["bias"][c] if weight is None else weight(-1)
            if name == "dy":
                assert dy is not None
                return dy
            return value(tensor, list(index), read)

        return read

    def _same(self, i: Expr, t: Expr, k: int) -> Expr:
        """Whether a tap reads its own sequence; steps that do not exist read the nearest that does, and count nothing."""
        zero = tirx.const(0, t.ty)
        there = tirx.max(zero, tirx.min(t, self.steps - 1))
        tap = tirx.max(zero, tirx.min(t + (k - self.reach), self.steps - 1))
        return self.buffers["seq_idx"][i, there] == self.buffers["seq_idx"][i, tap]

    def at_zero(self, tensor: te.Tensor, load: Load) -> Expr:
        """A stage at index 0, for `load` to place."""
        zero = tirx.const(0, "int64")
        return value(tensor, [zero] * len(tensor.shape), load)

    def terms(self, load: Load) -> list[Expr]:
        """What a step adds to the gradient of each tap, and of the bias."""
        zero = tirx.const(0, "int64")
        taps = [
            self.conv.term(self.conv.result("dweight"), [zero, zero, tirx.const(k, "int64"), zero], zero, load)
            for k in range(self.conv.width)
        ]
        return [*taps, self.conv.term(self.conv.result("dbias"), [zero, zero, zero], zero, load)]


class _Walk(_Windows):
    """Channels contiguous: a thread walks along time."""

    def emit(self) -> None:
        conv, point, lanes = self.conv, self.point, self.lanes
        long = conv.chunk if conv.backward else point.steps
        tiles, columns = (
            tirx.ceildiv(s, moves.i64(n)) for s, n in ((self.steps, long), (self.channels, point.threads * lanes))
        )
        with moves.blocks(self.batch * tiles * columns) as block, moves.phase(point.threads) as thread:
            rest, column = moves.split_block(block, columns)
            i, tile = (v.astype("int64") for v in moves.split_block(rest, tiles))
            first = column.astype("int64") * (point.threads * lanes)

            def sweep(wide: bool) -> None:
                def channel(lane: int) -> Expr:
                    return first + thread * lanes + lane if wide else first + lane * point.threads + thread

                with moves.when(channel(0) < self.channels):
                    self._walk(i, tile, long, channel, wide)

            if lanes == 1:
                sweep(False)
            else:
                moves.either(moves.divides(lanes, self.channels), lambda: sweep(True), lambda: sweep(False))

    def _walk(self, i: Expr, tile: Expr, long: int, channel: Channel, wide: bool) -> None:
        w, reach, lanes = self.conv.width, self.reach, self.lanes
        self._weights = moves.Registers.private((w + 1) * lanes, "float32")
        self._window = moves.Registers.private(w * lanes, "float32")
        self._row = moves.Registers.private(lanes, self.conv.program.dtype)
        for lane in range(lanes):
            there = True if wide or lane == 0 else channel(lane) < self.channels
            for k in range(w):
                self._weights.store(k * lanes + lane, self._column("weight", [tirx.const(k, "int64"), channel(lane)], there))
            self._weights.store(w * lanes + lane, self._column("bias", [channel(lane)], there))
            for k in range(reach):
                self._window.store((k + 1) * lanes + lane, self.past(i, tile * long + k - reach, channel(lane), there))
        (self._back if self.conv.backward else self._forth)(i, tile, long, channel, wide)

    def _forth(self, i: Expr, tile: Expr, long: int, channel: Channel, wide: bool) -> None:
        (y,) = self.conv.program.results
        out = moves.Registers.private(self.lanes, self.conv.program.dtype)
        with T.serial(0, long) as step:
            t = tile * long + step
            with moves.when(t < self.steps):
                self._advance(i, t, channel, wide)
                for lane in range(self.lanes):
                    out.store(lane, self.at_zero(y, self._lane(i, t, channel(lane), lane)))
                self._write("y", self.steps, out, i, t, channel, wide)

    def _back(self, i: Expr, tile: Expr, long: int, channel: Channel, wide: bool) -> None:
        w, reach, lanes, kind = self.conv.width, self.reach, self.lanes, self.conv.program.dtype
        self._g = moves.Registers.private(w * lanes, "float32")
        dy, out = (moves.Registers.private(lanes, kind) for _ in range(2))
        sums, parts = (moves.Registers.private((w + 1) * lanes, "float32") for _ in range(2))
        for registers, count in ((self._g, w * lanes), (sums, (w + 1) * lanes), (parts, (w + 1) * lanes)):
            for slot in range(count):
                registers.store(slot, moves.f32(0.0))
        with T.serial(0, long // LEVEL + 1) as level:
            with T.serial(0, LEVEL) as inner:
                step = level * LEVEL + inner
                t = tile * long + step
                with moves.when(tirx.all(step < long + reach, t < self.steps + reach)):
                    self._advance(i, t, channel, wide)
                    with moves.when(t < self.steps):
                        self._fetch("dy", dy, i, t, channel, wide)
                    for lane in range(lanes):
                        load = self._lane(i, t, channel(lane), lane, dy[lane])
                        _shift(self._g, reach, lanes, lane)
                        here = self.at_zero(self.conv.g, load)
                        self._g.store(reach * lanes + lane, tirx.if_then_else(t < self.steps, here, moves.f32(0.0)))
                        with moves.when(tirx.all(step < long, t < self.steps)):
                            for o, term in enumerate(self.terms(self._lane(i, t, channel(lane), lane, own=True))):
                                sums.store(o * lanes + lane, sums[o * lanes + lane] + term)
                        out.store(
                            lane, self.at_zero(self.conv.stages["dpast"], self._lane(i, t, channel(lane), lane)).astype(kind)
                        )
                    with moves.when(t < reach):
                        self._write("dinitial", moves.i64(reach), out, i, t, channel, wide)
                    with moves.when(step >= reach):
                        self._write("dx", self.steps, out, i, t - reach, channel, wide)
            for slot in range((w + 1) * lanes):
                parts.store(slot, parts[slot] + sums[slot])
                sums.store(slot, moves.f32(0.0))
        for lane in range(lanes):
            with moves.when(True if wide or lane == 0 else channel(lane) < self.channels):
                for k in range(w):
                    at = [i, tile, tirx.const(k, "int64"), channel(lane)]
                    T.buffer_store(self.buffers["dweight"], parts[k * lanes + lane], at)
                T.buffer_store(self.buffers["dbias"], parts[w * lanes + lane], [i, tile, channel(lane)])

    def _lane(self, i: Expr, t: Expr, c: Expr, lane: int, dy: Expr | None = None, own: bool = False) -> Load:
        """Reads of one lane, the newest step last in its windows; `own` asks for g of this step and no other."""
        lanes, reach = self.lanes, self.reach
        return self.load(
            i, t, c,
            past=lambda k: self._window[k * lanes + lane],
            g=lambda k: self._g[(reach if own else k) * lanes + lane],
            dy=dy,
            weight=lambda k: self._weights[(k if k >= 0 else reach + 1) * lanes + lane],
        )  # fmt: skip

    def _column(self, name: str, index: Sequence[Expr], there: Expr | bool) -> Expr:
        buffer = self.buffers[name]
        return buffer[*index] if there is True else tirx.if_then_else(there, buffer[*index], moves.f32(0.0))

    def _advance(self, i: Expr, t: Expr, channel: Channel, wide: bool) -> None:
        """One step on: what is oldest leaves the window, x at step t enters."""
        with moves.when(t < self.steps):
            self._fetch("x", self._row, i, t, channel, wide)
        for lane in range(self.lanes):
            _shift(self._window, self.reach, self.lanes, lane)
            here = self._row[lane].astype("float32")
            self._window.store(
                self.reach * self.lanes + lane,
                tirx.if_then_else(t < self.steps, here, moves.f32(0.0)) if self.conv.backward else here,
            )

    def _fetch(self, name: str, into: moves.Registers, i: Expr, t: Expr, channel: Channel, wide: bool) -> None:
        if wide:
            flat = moves.Flat(self.buffers[name], 3)
            moves.read_vector(flat, self._group(i * self.steps + t, channel), into, 0, self.lanes)
            return
        for lane in range(self.lanes):
            into.store(lane, self.read(name, i, t, channel(lane), lane == 0 or channel(lane) < self.channels))

    def _write(self, name: str, rows: Expr, values: moves.Registers, i: Expr, t: Expr, channel: Channel, wide: bool) -> None:
        """One step of a result that has so many of them."""
        if wide:
            moves.write_vector(moves.Flat(self.buffers[name], 3), self._group(i * rows + t, channel), values, 0, self.lanes)
            return
        for lane in range(self.lanes):
            with moves.when(lane == 0 or channel(lane) < self.channels):
                T.buffer_store(self.buffers[name], values[lane], [i, t, channel(lane)])

    def _group(self, row: Expr, channel: Channel) -> Expr:
        return moves.hold(row * tirx.truncdiv(self.channels, self.lanes) + tirx.truncdiv(channel(0), self.lanes))


class _Side(_Windows):
    """Time contiguous: a thread has the steps of one access, and reads the few around them."""

    def emit(self) -> None:
        conv, lanes = self.conv, self.lanes
        threads = conv.chunk // lanes if conv.backward else self.point.threads
        self._threads = threads
        tiles = tirx.ceildiv(self.steps, moves.i64(threads * lanes))
        with moves.blocks(self.batch * self.channels * tiles) as block:
            rest, tile = moves.split_block(block, tiles)
            i, c = (v.astype("int64") for v in moves.split_block(rest, self.channels))
            self._i, self._c, self._tile = i, c, tile.astype("int64")
            totals = [Totals(1, threads, threads) for _ in range(conv.width + 1)] if conv.backward else []
            with moves.phase(threads) as thread:
                first = (self._tile * threads + thread) * lanes
                if conv.backward:
                    self._sums = moves.Registers.private(conv.width + 1, "float32")
                    for slot in range(conv.width + 1):
                        self._sums.store(slot, moves.f32(0.0))
                with moves.when(first < self.steps):
                    if lanes == 1:
                        self._emit(first, False)
                    else:
                        wide = moves.divides(lanes, self.steps)
                        moves.either(wide, lambda: self._emit(first, True), lambda: self._emit(first, False))
                for slot, total in enumerate(totals):
                    total.publish(tirx.const(0, "int32"), thread, self._sums[slot])
            for total in totals:
                total.thin()
                total.finish()
            if totals:
                with moves.phase(threads) as thread, moves.when(thread == 0):
                    for k, total in enumerate(totals[:-1]):
                        T.buffer_store(self.buffers["dweight"], total[0], [i, self._tile, tirx.const(k, "int64"), c])
                    T.buffer_store(self.buffers["dbias"], totals[-1][0], [i, self._tile, c])

    def _emit(self, first: Expr, wide: bool) -> None:
        i, c, lanes, reach, kind = self._i, self._c, self.lanes, self.reach, self.conv.program.dtype
        ahead = reach if self.conv.backward else 0
        window = moves.Registers.private(lanes + reach + ahead, "float32")
        for j in range(-reach, 0):
            window.store(j + reach, self.past(i, first + j, c, True))
        self._own("x", first, wide, lambda lane, v: window.store(lane + reach, v.astype("float32")))
        for j in range(lanes, lanes + ahead):
            window.store(j + reach, self.past(i, first + j, c, True))
        out = moves.Registers.private(lanes, kind)
        if not self.conv.backward:
            (y,) = self.conv.program.results
            for lane in range(lanes):
                out.store(lane, self.at_zero(y, self._at(first, lane, window)))
            self._store("y", out, first, wide)
            return
        self._gradients(first, wide, window, out)

    def _gradients(self, first: Expr, wide: bool, window: moves.Registers, out: moves.Registers) -> None:
        i, c, lanes, reach, kind = self._i, self._c, self.lanes, self.reach, self.conv.program.dtype
        dy, g = moves.Registers.private(lanes + reach, kind), moves.Registers.private(lanes + reach, "float32")
        self._own("dy", first, wide, dy.store)
        for j in range(lanes, lanes + reach):
            dy.store(j, self.read("dy", i, first + j, c, first + j < self.steps))
        for j in range(lanes + reach):
            here = self.at_zero(self.conv.g, self._at(first, j, window, dy=dy[j]))
            g.store(j, tirx.if_then_else(first + j < self.steps, here, moves.f32(0.0)))
        for lane in range(lanes):
            with moves.when(True if wide else first + lane < self.steps):
                for slot, term in enumerate(self.terms(self._at(first, lane, window, lambda k, lane=lane: g[lane]))):
                    self._sums.store(slot, self._sums[slot] + term)
        dpast = self.conv.stages["dpast"]
        for lane in range(lanes):
            load = self._at(first, lane + reach, window, lambda k, lane=lane: g[lane + k])
            out.store(lane, self.at_zero(dpast, load).astype(kind))
        self._store("dx", out, first, wide)
        with moves.when(first == 0):
            for s in range(reach):

                def early(k: int, s: int = s) -> Expr:
                    return g[s + k - reach] if s + k >= reach else moves.f32(0.0)

                load = self._at(first, s, window, early)
                T.buffer_store(self.buffers["dinitial"], self.at_zero(dpast, load).astype(kind), [i, c, tirx.const(s, "int64")])

    def _at(
        self, first: Expr, j: int, window: moves.Registers, g: Callable[[int], Expr] | None = None, dy: Expr | None = None
    ) -> Load:
        """Reads at step first + j, counted from where dpast of that index is in the walk for a stage of the backward."""
        return self.load(self._i, first + j, self._c, lambda k: window[j + k], g or (lambda k: moves.f32(0.0)), dy)

    def _own(self, name: str, first: Expr, wide: bool, put: Callable[[int, Expr], None]) -> None:
        held = moves.Registers.private(self.lanes, self.conv.program.dtype)
        if wide:
            moves.read_vector(moves.Flat(self.buffers[name], 3), self._group(first), held, 0, self.lanes)
        for lane in range(self.lanes):
            if not wide:
                held.store(lane, self.read(name, self._i, first + lane, self._c, lane == 0 or first + lane < self.steps))
            put(lane, held[lane])

    def _store(self, name: str, values: moves.Registers, first: Expr, wide: bool) -> None:
        if wide:
            moves.write_vector(moves.Flat(self.buffers[name], 3), self._group(first), values, 0, self.lanes)
            return
        for lane in range(self.lanes):
            with moves.when(lane == 0 or first + lane < self.steps):
                T.buffer_store(self.buffers[name], values[lane], [self._i, self._c, first + lane])

    def _group(self, first: Expr) -> Expr:
        row = self._i * self.channels + self._c
        return moves.hold(row * tirx.truncdiv(self.steps, self.lanes) + tirx.truncdiv(first, self.lanes))


def _shift(window: moves.Registers, reach: int, lanes: int, lane: int) -> None:
    for k in range(reach):
        window.store(k * lanes + lane, window[(k + 1) * lanes + lane])


def _number(index: Expr) -> int:
    found = dm.constant(dm.simplify(index))
    assert found is not None, index
    return found
