"""A convolution where time is contiguous: a thread has the steps of one access, and reads the few around them."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.schedules import cuda_moves as moves
from treadle.schedules.emit import Load
from treadle.schedules.norm.row_teams import Totals
from treadle.schedules.scan.conv_window import Windows


class Side(Windows):
    """A block of threads side by side along time, in one channel."""

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
