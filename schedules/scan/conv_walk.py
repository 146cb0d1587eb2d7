"""A convolution where channels are contiguous: a thread walks along time, the steps that it still needs in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.schedules import cuda_moves as moves
from treadle.schedules.emit import Load
from treadle.schedules.scan.conv_window import Windows

#: The channel of a lane.
Channel = Callable[[int], Expr]

#: Steps whose weight gradients a walking thread adds up before it adds their sum to the part's.
LEVEL = 16


class Walk(Windows):
    """A block of threads side by side along the channels."""

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


def _shift(window: moves.Registers, reach: int, lanes: int, lane: int) -> None:
    for k in range(reach):
        window.store(k * lanes + lane, window[(k + 1) * lanes + lane])
