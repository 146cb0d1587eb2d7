"""One task of the selective scan: the channels of a part, eight side by side, tile of steps by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.schedules import exp2
from treadle.schedules.cpu.loops import get, put, transposed
from treadle.schedules.selective_family import GRADIENTS, SUMS, Family

DEGREE = 6


class Task:
    """Channels [first, first + count) of group g of sequence s.

    Scratch is float32. By state and lane: `a`, `rate` (A log2 e), `h`, and backwards `pushed`, what the adjoint carries, `da`.
    By step and lane, for eight channels: `step`, `u`, `total`, ... in `turned`; the same by lane and step in `rows`.
    """

    def __init__(
        self, family: Family, buffers: dict[str, tirx.Var], lanes: int, tile: int, together: int, place: tuple[Expr, Expr, Expr]
    ) -> None:
        self.family, self.buffers, self.lanes, self.tile, self.together = family, buffers, lanes, tile, together
        self.s, self.g, self.part = place
        _, _, channels, self.steps = family.sizes
        self.n = family.states
        self.first = T.bind(self.part * family.part)
        self.count = T.bind(tirx.min(channels - self.first, _i64(family.part)))
        self.groups = T.bind(tirx.truncdiv(self.count + (lanes - 1), _i64(lanes)))
        self.tiles = T.bind(tirx.truncdiv(self.steps + (tile - 1), _i64(tile)))
        self.backwards = family.back is not None
        each = family.part * self.n
        names = ["a", "rate", "h", *(["pushed", "da"] if self.backwards else [])]
        self.by_state = {name: T.alloc_buffer((each,), "float32") for name in names}
        self.wide = {name: T.alloc_buffer((self.n * tile,), "float32") for name in ("B", "C")}
        into, out = ["step", "u"], ["total"]
        if self.backwards:
            into, out = [*into, "dtotal"], [*out, "dstep", "du_scan"]
        self.into, self.out = into, out
        self.rows = {name: T.alloc_buffer((lanes * tile,), "float32") for name in (*into, *out)}
        self.turned = {name: T.alloc_buffer((tile * lanes,), "float32") for name in (*into, *out)}

    # -- whole walks --------------------------------------------------------------------------------------------------------
    def forward(self) -> None:
        self._begin("initial", "h")
        with T.serial(0, self.tiles) as tile:
            self._enter(tile, ("B", "C"))
            with T.serial(0, self.groups) as group:
                self._fill(group, ("step", "u"))
                self._clear("total")
                self._walk(group, ("total",))
                self._turn_back("total")
                self._store(group)
        self._finish("h", "last")

    def backward(self) -> None:
        lanes, n, tile = self.lanes, self.n, self.tile
        kept = T.alloc_buffer((self.tiles * (self.family.part * n),), "float32")
        sums = {name: T.alloc_buffer((self.family.part * lanes,), "float64") for name in SUMS}
        grads = {name: T.alloc_buffer((n * tile * lanes,), "float32") for name in ("B", "C")}
        self.grads = grads
        self.trail = {name: T.alloc_buffer(((tile + 1) * lanes,), "float32") for name in ("now", "decay")}

        self._begin("initial", "h")
        self._begin("dlast", "pushed")
        _zero(self.by_state["da"], self.family.part * n)
        for name in SUMS:
            _zero(sums[name], self.family.part * lanes, "float64")
        with T.serial(0, self.tiles) as t:
            with T.serial(0, self.family.part * n) as i:
                T.buffer_store(kept, self.by_state["h"][i], [t * (self.family.part * n) + i])
            with T.If(t < self.tiles - 1), T.Then():
                self._enter(t, ("B",))
                with T.serial(0, self.groups) as group:
                    self._fill(group, ("step", "u"))
                    self._walk(group, ())
        with T.serial(0, self.tiles) as back:
            t = T.bind(self.tiles - 1 - back)
            self._enter(t, ("B", "C"))
            for name in ("B", "C"):
                _zero(grads[name], n * tile * lanes)
            with T.serial(0, self.groups) as group:
                self._fill(group, ("step", "u", "dtotal"))
                for name in self.out:
                    self._clear(name)
                with T.serial(0, n) as m:
                    self._there_and_back(group, m, kept, t)
                for name in self.out:
                    self._turn_back(name)
                self._store(group)
                self._add_up(group, sums)
            self._store_parts()
        self._finish("da", "dA")
        self._finish("pushed", "dinitial")
        for name in SUMS:
            with T.serial(0, self.count) as c:
                whole = T.alloc_buffer((1,), "float64", scope="local")
                T.buffer_store(whole, tirx.const(0.0, "float64"), [0])
                with T.serial(0, lanes) as lane:
                    T.buffer_store(whole, whole[0] + sums[name][c * lanes + lane], [0])
                T.buffer_store(self.buffers[name], whole[0].astype("float32"), [self.s, self.g, self.first + c])

    # -- by state -----------------------------------------------------------------------------------------------------------
    def _slot(self, group: Expr, m: Expr | int, lane: Expr | int = 0) -> Expr:
        return (group * self.n + m) * self.lanes + lane

    def _begin(self, source: str, into: str) -> None:
        """Decay rates, and the states before the first step; channels that do not exist have the rates of one that does."""
        with T.serial(0, self.family.part // self.lanes) as group, T.serial(0, self.lanes) as lane, T.serial(0, self.n) as m:
            c = group * self.lanes + lane
            there = self.first + tirx.min(c, self.count - 1)
            a = self.buffers["A"][self.g, there, m]
            T.buffer_store(self.by_state["a"], a, [self._slot(group, m, lane)])
            T.buffer_store(self.by_state["rate"], a * _f32(exp2.LOG2_E), [self._slot(group, m, lane)])
            begins = tirx.Select(c < self.count, self.buffers[source][self.s, self.g, there, m], _f32(0.0))
            T.buffer_store(self.by_state[into], begins, [self._slot(group, m, lane)])

    def _finish(self, source: str, result: str) -> None:
        with T.serial(0, self.count) as c, T.serial(0, self.n) as m:
            group, lane = tirx.truncdiv(c, _i64(self.lanes)), tirx.truncmod(c, _i64(self.lanes))
            here = self.by_state[source][self._slot(group, m, lane)]
            T.buffer_store(self.buffers[result], here, [self.s, self.g, self.first + c, m])

    # -- a tile -------------------------------------------------------------------------------------------------------------
    def _enter(self, tile: Expr, names: Sequence[str]) -> None:
        """Widen B and C of a tile: [state][step]."""
        self.t = T.bind(tile * self.tile)
        self.length = T.bind(tirx.min(_i64(self.tile), self.steps - self.t))
        for name in names:
            with T.serial(0, self.n) as m, T.serial(0, self.length) as l:
                here = self.buffers[name][self.s, self.g, m, self.t + l].astype("float32")
                T.buffer_store(self.wide[name], here, [m * self.tile + l])

    def _load(self, lane: Expr, l: Expr, known: Sequence[str]) -> Callable[[te.Tensor, Sequence[Expr]], Expr | None]:
        def load(tensor: te.Tensor, index: Sequence[Expr]) -> Expr | None:
            name = tensor.op.name
            if name in known:
                return self.rows[name][lane * self.tile + l]
            return self.buffers[name][*index] if isinstance(tensor.op, te.PlaceholderOp) else None

        return load

    @contextmanager
    def _lanes(self, group: Expr) -> Iterator[tuple[Expr, Expr, Expr]]:
        """The channels of a group that exist: lane, number in the task, channel."""
        with T.serial(0, self.lanes) as lane:
            c = T.bind(group * self.lanes + lane)
            with T.If(c < self.count), T.Then():
                yield lane, c, T.bind(self.first + c)

    def _fill(self, group: Expr, names: Sequence[str]) -> None:
        """What the walk needs of eight channels, by row and turned round; zero where there is no channel."""
        with T.If(group * self.lanes + self.lanes > self.count), T.Then():
            for name in names:
                _zero(self.rows[name], self.lanes * self.tile)
        with self._lanes(group) as (lane, _, channel):
            for name in names:
                with T.serial(0, self.length) as l:
                    at = [self.s, self.g, channel, self.t + l]
                    if name == "u":
                        here = self.buffers["u"][*at].astype("float32")
                    else:
                        here = self.family.by_row(self.family.rows[name], at, self._load(lane, l, ()))
                    T.buffer_store(self.rows[name], here, [lane * self.tile + l])
        for name in names:
            with T.serial(0, self._eights()) as eight:
                rows = [T.bind(get(self.rows[name], i * self.tile + eight * self.lanes, self.lanes)) for i in range(self.lanes)]
                for i, vector in enumerate(transposed(rows, self.lanes)):
                    put(self.turned[name], (eight * self.lanes + i) * self.lanes, self.lanes, vector)

    def _turn_back(self, name: str) -> None:
        with T.serial(0, self._eights()) as eight:
            first = eight * self.lanes
            rows = [T.bind(get(self.turned[name], (first + i) * self.lanes, self.lanes)) for i in range(self.lanes)]
            for i, vector in enumerate(transposed(rows, self.lanes)):
                put(self.rows[name], i * self.tile + first, self.lanes, vector)

    def _eights(self) -> Expr:
        return tirx.truncdiv(self.length + (self.lanes - 1), _i64(self.lanes))

    def _clear(self, name: str) -> None:
        _zero(self.turned[name], self.tile * self.lanes)

    def _store(self, group: Expr) -> None:
        """The results that are made by row."""
        known = [*self.out, "dtotal"] if self.backwards else self.out
        with self._lanes(group) as (lane, _, channel):
            for result, stage in self.family.stored.values():
                if result.op.name in SUMS:
                    continue
                with T.serial(0, self.length) as l:
                    at = [self.s, self.g, channel, self.t + l]
                    here = self.family.by_row(stage, at, self._load(lane, l, known))
                    T.buffer_store(self.buffers[result.op.name], here.astype(str(result.dtype)), at)

    def _add_up(self, group: Expr, sums: dict[str, tirx.Var]) -> None:
        """Sums over steps, in float64, as many side by side as a vector has lanes."""
        lanes = self.lanes
        with self._lanes(group) as (lane, c, channel):
            for name in SUMS:
                _, stage = self.family.stored[name]

                def add(l: Expr, at: Expr, stage: te.Tensor = stage, name: str = name) -> None:
                    index = [self.s, self.g, channel, self.t + l]
                    here = self.family.by_row(stage, index, self._load(lane, l, [*self.out, "dtotal"]))
                    where = [c * lanes + at]
                    T.buffer_store(sums[name], sums[name][*where] + here.astype("float64"), where)

                whole = tirx.truncdiv(self.length, _i64(lanes))
                with T.serial(0, whole) as eight, T.vectorized(0, lanes) as l:
                    add(eight * lanes + l, l)
                with T.serial(0, self.length - whole * lanes) as l:
                    add(whole * lanes + l, l)

    # -- states -------------------------------------------------------------------------------------------------------------
    def _walk(self, group: Expr, totals: Sequence[str]) -> None:
        """All states of eight channels through the tile, a few at once."""
        whole = self.n // self.together
        if whole:
            with T.serial(0, whole) as few:
                self._states(group, [few * self.together + i for i in range(self.together)], totals)
        for m in range(whole * self.together, self.n):
            self._states(group, [_i64(m)], totals)

    def _states(self, group: Expr, ms: Sequence[Expr], totals: Sequence[str]) -> None:
        lanes = self.lanes
        held = [T.alloc_buffer((lanes,), "float32", scope="local") for _ in ms]
        rates = [T.alloc_buffer((lanes,), "float32", scope="local") for _ in ms]
        for m, h, rate in zip(ms, held, rates, strict=True):
            put(h, 0, lanes, get(self.by_state["h"], self._slot(group, m), lanes))
            put(rate, 0, lanes, get(self.by_state["rate"], self._slot(group, m), lanes))
        with T.serial(0, self.length) as l, T.vectorized(0, lanes) as lane:
            at = self._at(l, lane)
            total = [self.turned[name][l * lanes + lane] for name in totals]
            for m, h, rate in zip(ms, held, rates, strict=True):
                at |= {"B": self._wide("B", m, l), "C": self._wide("C", m, l)}
                at["decay"] = T.bind(self._decay(at, rate[lane]))
                now = T.bind(self._advance(at, h[lane]))
                T.buffer_store(h, now, [lane])
                total = [T.bind(t + self._total(at, now)) for t in total]
            for name, t in zip(totals, total, strict=True):
                T.buffer_store(self.turned[name], t, [l * lanes + lane])
        for m, h in zip(ms, held, strict=True):
            put(self.by_state["h"], self._slot(group, m), lanes, get(h, 0, lanes))

    def _there_and_back(self, group: Expr, m: Expr, kept: tirx.Var, tile: Expr) -> None:
        """A state's steps of a tile from its checkpoint, then its adjoint the other way."""
        lanes, back, trail = self.lanes, self.family.back, self.trail
        assert back is not None
        h, pushed, da, rate, a = (T.alloc_buffer((lanes,), "float32", scope="local") for _ in range(5))
        where = self._slot(group, m)
        put(h, 0, lanes, get(kept, tile * (self.family.part * self.n) + where, lanes))
        put(trail["now"], 0, lanes, get(h, 0, lanes))
        for buffer, name in ((rate, "rate"), (a, "a"), (pushed, "pushed")):
            put(buffer, 0, lanes, get(self.by_state[name], where, lanes))
        with T.vectorized(0, lanes) as lane:
            T.buffer_store(da, _f32(0.0), [lane])
        with T.serial(0, self.length) as l, T.vectorized(0, lanes) as lane:
            at = self._at(l, lane) | {"B": self._wide("B", m, l), "C": self._wide("C", m, l)}
            at["decay"] = T.bind(self._decay(at, rate[lane]))
            T.buffer_store(trail["decay"], at["decay"], [l * lanes + lane])
            now = T.bind(self._advance(at, h[lane]))
            T.buffer_store(h, now, [lane])
            T.buffer_store(trail["now"], now, [(l + 1) * lanes + lane])
            total = self.turned["total"][l * lanes + lane] + self._total(at, now)
            T.buffer_store(self.turned["total"], total, [l * lanes + lane])
        values = {o.tensor.op.name: o.value for o in back.outputs if o.tensor.op.name in GRADIENTS}
        with T.serial(0, self.length) as reverse, T.vectorized(0, lanes) as lane:
            l = self.length - 1 - reverse
            at = self._at(l, lane) | {"B": self._wide("B", m, l), "C": self._wide("C", m, l), "A": a[lane]}
            at["decay"] = T.bind(trail["decay"][l * lanes + lane])
            at["past"], at["now"] = T.bind(trail["now"][l * lanes + lane]), T.bind(trail["now"][(l + 1) * lanes + lane])
            carry = T.bind(self.family.bound(back, back.source, at) + pushed[lane])
            given = {name: self.family.bound(back, value, at, carry) for name, value in values.items()}
            T.buffer_store(pushed, at["decay"] * carry, [lane])
            T.buffer_store(da, da[lane] + given["dA"], [lane])
            for name in ("dstep", "du_scan"):
                added = self.turned[name][l * lanes + lane] + given[name]
                T.buffer_store(self.turned[name], added, [l * lanes + lane])
            for name in ("B", "C"):
                slot = (m * self.tile + l) * lanes + lane
                T.buffer_store(self.grads[name], self.grads[name][slot] + given[f"d{name}"], [slot])
        put(self.by_state["pushed"], where, lanes, get(pushed, 0, lanes))
        with T.vectorized(0, lanes) as lane:
            T.buffer_store(self.by_state["da"], self.by_state["da"][where + lane] + da[lane], [where + lane])

    def _at(self, l: Expr, lane: Expr) -> dict[str, Expr]:
        names = self.into if self.backwards else ("step", "u")
        return {name: T.bind(self.turned[name][l * self.lanes + lane]) for name in names}

    def _wide(self, name: str, m: Expr, l: Expr) -> Expr:
        return self.wide[name][m * self.tile + l]

    def _decay(self, at: dict[str, Expr], rate: Expr) -> Expr:
        return exp2.power(self.family.bound(self.family.scan, self.family.rate, at) * rate, DEGREE)

    def _advance(self, at: dict[str, Expr], past: Expr) -> Expr:
        return self.family.bound(self.family.scan, self.family.scan.source, at) + at["decay"] * past

    def _total(self, at: dict[str, Expr], now: Expr) -> Expr:
        """What a state adds to the sum over states."""
        (value,) = (o.value for o in self.family.scan.outputs if o.tensor.op.name == "total")
        return self.family.bound(self.family.scan, value, at, now)

    def _store_parts(self) -> None:
        """Gradients of B and C: sums over the lanes, eight steps at once."""
        lanes = self.lanes
        for name in ("B", "C"):
            grads, result = self.grads[name], self.buffers[f"d{name}"]
            with T.serial(0, self.n) as m, T.serial(0, self._eights()) as eight:
                first = (m * self.tile + eight * lanes) * lanes
                vectors = transposed([T.bind(get(grads, first + i * lanes, lanes)) for i in range(lanes)], lanes)
                while len(vectors) > 1:
                    vectors = [T.bind(a + b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
                held = T.alloc_buffer((lanes,), "float32", scope="local")
                put(held, 0, lanes, vectors[0])
                with T.serial(0, tirx.min(_i64(lanes), self.length - eight * lanes)) as l:
                    T.buffer_store(result, held[l], [self.s, self.g, self.part, m, self.t + eight * lanes + l])


def _zero(buffer: tirx.Var, size: int, kind: str = "float32") -> None:
    with T.serial(0, size) as i:
        T.buffer_store(buffer, tirx.const(0.0, kind), [i])


def _i64(value: int) -> Expr:
    return tirx.const(value, "int64")


def _f32(value: float) -> Expr:
    return tirx.const(value, "float32")
