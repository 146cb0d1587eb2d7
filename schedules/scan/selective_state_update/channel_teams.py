"""Channel teams: a few channels of a head to a block, a team of threads along the states of each.

A team has a channel's states in one access each (16 bytes of N = 128 in fp16 are 16 threads) and does so for `turns` channels.
Moves:

1. *16-byte accesses* where N is a multiple of them (known, or asked once by a branch that the whole grid takes together),
   otherwise neighbouring threads take neighbouring states.
2. *loads first*: the states of all turns are read before any is written. A store to the state is a wall that no load crosses,
   and bytes in flight are what a kernel bound by the bus needs.
3. *factors once a thread*: step size and decay of a head are worked out while the states are under way; by channel and state
   (Mamba-1) the decay is an exponential for each state, and the kernel bound by those.
4. *sums through shared memory*: each thread publishes one number for a channel, and one thread for each channel adds them up,
   skips, gates and stores, in lanes of channels.
5. *bits by the eight*: a 16-byte access of fp16 takes one block of Philox, some 60 instructions for eight states.

Floor: states read and written once; x, dt, B, C, y are 1 % of that at N = 128. For several tokens a thread reads again what it
wrote itself, from L2. Predicted for P64 N128 fp16 on an H100 at 3.35 TB/s, 85 % of it above 2,048 heads, some 3 us of launch
and latency below 512, 50 MB of L2 until 1,024 heads: batch x heads 2,048 takes 24 us, 4,096 47, 8,192 94, 12,288 141 (the
best published: 28, 56, 105, 146). Nothing was timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.expr import Expr
from treadle.ir.ops import random
from treadle.schedules import cuda_moves as moves
from treadle.schedules.emit import Function
from treadle.schedules.space import knob
from treadle.schedules.state_family import Step, applies
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

SERIAL = True


@dataclass(frozen=True)
class Knobs:
    across: int = knob(16, (4, 8, 16, 32), "threads to a channel: as many as its accesses, or lanes idle")
    channels: int = knob(4, (1, 2, 4, 8, 16), "channels of a block side by side")
    turns: int = knob(2, (1, 2, 4, 8), "channels of a team: loads in flight, and fewer blocks")
    access: int = knob(16, (2, 4, 8, 16), "bytes of one access to the states")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    step = Step.of(program)
    lanes = moves.elements_of(point.access, step.kind)
    teams = moves.Teams(point.across, point.channels)
    reasons = teams.refusals()
    if point.access < find_dtype(step.kind).itemsize:
        reasons.append(f"an access of {point.access} bytes is less than one {step.kind}")
    if moves.never_divides(lanes, step.sizes[-1]) and lanes > 1:
        reasons.append(f"channels of {dm.text(step.sizes[-1])} states are no multiple of the {lanes} of one access")
    if point.turns > point.across:
        reasons.append(f"{point.turns} channels of a team are finished by its {point.across} threads, one each at most")
    reasons += moves.register_refusals(target, teams.threads, (point.turns + 2) * lanes)
    return reasons


def default(program: Program, target: Target) -> Knobs:
    step = Step.of(program)
    n, item = step.sizes[-1], find_dtype(step.kind).itemsize
    access = next(b for b in (16, 8, 4, 2) if b <= item or not moves.never_divides(b // item, n))
    size = dm.constant(n) or 128
    accesses = -(-size // moves.elements_of(access, step.kind))
    across = next((a for a in (4, 8, 16) if a >= accesses), 32)
    channels = 64 // across
    return Knobs(across, channels, max(1, min(8 // channels, across)), access)


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    step = Step.of(program)
    s, _, g, r, p, _ = step.sizes
    parts = tirx.ceildiv(p, moves.i64(point.channels * point.turns))
    function = Function(program)
    with function as buffers, moves.blocks(s * g * r * parts) as index:
        rest, part = moves.split_block(index, parts)
        rest, head = moves.split_block(rest, r)
        i, group = moves.split_block(rest, g)
        _Block(step, buffers, point, *(v.astype("int64") for v in (i, group, head, part))).emit()
    return function.primfunc


@dataclass(frozen=True)
class _Place:
    """The states of one thread in one step along a channel: `wide` ones side by side, else a team apart."""

    block: _Block
    number: Expr
    lane: Expr
    wide: bool

    def starts(self) -> Expr:
        return self.column(0) < self.block.n

    def exists(self, slot: int) -> Expr | bool:
        return True if self.wide or slot == 0 else self.column(slot) < self.block.n

    def column(self, slot: int) -> Expr:
        across, lanes = self.block.point.across, self.block.lanes
        if self.wide:
            return (self.number * across + self.lane) * lanes + slot
        return (self.number * lanes + slot) * across + self.lane

    def group(self, row: Expr, first: int, lanes: int) -> Expr:
        """Which access of a tensor it is, counted in `lanes`."""
        mine = (self.number * self.block.point.across + self.lane) * (self.block.lanes // lanes) + first // lanes
        return moves.hold(row * tirx.truncdiv(self.block.n, moves.i64(lanes)) + mine)


class _Block:
    """Some channels of one head of one sequence."""

    def __init__(
        self, step: Step, buffers: dict[str, tirx.Var], point: Knobs, i: Expr, group: Expr, head: Expr, part: Expr
    ) -> None:
        self.step, self.buffers, self.point = step, buffers, point
        self.i, self.head, self.part = i, (group, head), part
        _, self.tokens, self.g, self.r, self.p, self.n = step.sizes
        self.lanes = moves.elements_of(point.access, step.kind)
        self.tile = point.channels * point.turns
        self.threads = point.channels * point.across

    def emit(self) -> None:
        # One word more than a team publishes: the threads that add up read down different banks.
        pitch = self.point.across + 1
        published = T.sblock_alloc_buffer((self.tile * pitch,), "float32", scope="shared")
        with T.serial(moves.i64(0), self.tokens) as t:
            with moves.phase(self.threads) as thread:
                self._if_there(lambda slot: self._states(t, thread, slot, published, pitch), lambda: self._no_states(t, thread))
            with moves.phase(self.threads) as thread, moves.when(thread < self.tile):
                c = self.part * self.tile + thread
                with moves.when(c < self.p):
                    self._if_there(lambda _: self._finish(t, c, thread, published, pitch), lambda: self._store_y(t, c, None))

    def _if_there(self, then: Callable[[Expr], None], otherwise: Callable[[], None]) -> None:
        slot = moves.hold(self.step.slot(self.i, self.buffers))
        moves.either(self.step.there(slot), lambda: then(slot), otherwise)

    def _channel(self, thread: Expr, turn: int) -> tuple[Expr, Expr]:
        """The channel of a thread's turn, in the block and in the head."""
        here = turn * self.point.channels + tirx.truncdiv(thread, self.point.across)
        return here, self.part * self.tile + here

    def _states(self, t: Expr, thread: Expr, slot: Expr, published: tirx.Var, pitch: int) -> None:
        turns, lane = self.point.turns, tirx.truncmod(thread, self.point.across)
        channels = [self._channel(thread, turn) for turn in range(turns)]
        sums = moves.Registers.private(turns, "float32")
        xs = moves.Registers.private(turns, self.step.program.dtype)
        for turn, (_, c) in enumerate(channels):
            sums.store(turn, moves.f32(0.0))
            with moves.when(c < self.p):
                xs.store(turn, self.buffers["x"][self.i, t, *self.head, c])
        factors = [self._factors(t, None)] * turns if self.step.tied else [self._factors(t, c) for _, c in channels]

        def visit(place: _Place) -> None:
            held = [moves.Registers.private(self.lanes, self.step.kind) for _ in channels]
            for turn, (_, c) in enumerate(channels):
                with moves.when(c < self.p):
                    self._read("state", self._row(slot, c), place, held[turn])
            shared = {}
            for name in ("B", "C"):
                shared[name] = moves.Registers.private(self.lanes, self.step.program.dtype)
                self._read(name, (self.i * self.tokens + t) * self.g + self.head[0], place, shared[name])
            for turn, (_, c) in enumerate(channels):
                with moves.when(c < self.p):
                    self._step(t, slot, c, place, held[turn], {**factors[turn], "x": xs[turn]}, shared, sums, turn)

        self._columns(lane, visit)
        for turn, (here, c) in enumerate(channels):
            with moves.when(c < self.p):
                T.buffer_store(published, sums[turn], [here * pitch + lane])

    def _step(
        self, t: Expr, slot: Expr, c: Expr, place: _Place, held: moves.Registers, known: dict[str, Expr],
        shared: dict[str, moves.Registers], sums: moves.Registers, turn: int,
    ) -> None:  # fmt: skip
        """One access of states, stepped on and kept."""
        row = self._row(slot, c)
        rates = {}
        if not self.step.tied:
            rates["A"] = moves.Registers.private(self.lanes, "float32")
            self._read("A", (self.head[0] * self.r + self.head[1]) * self.p + c, place, rates["A"])
        bits = self._bits(t, row, place)
        new = moves.Registers.private(1, "float32")
        for lane in range(self.lanes):
            with moves.when(place.exists(lane)):
                at = (self.i, t, *self.head, c, place.column(lane))
                of_lane = {name: registers[lane] for name, registers in (*shared.items(), *rates.items())}
                new.store(0, self.step.stage("after", at, self.step.load(self.buffers, before=held[lane], **known, **of_lane)))
                sums.store(turn, sums[turn] + self.step.term(at[:-1], at[-1], self.step.load(self.buffers, after=new[0], **of_lane)))
                noise = {} if bits is None else {"noise": bits(lane)}
                held.store(lane, self.step.stage("kept", at, self.step.load(self.buffers, after=new[0], **noise)))
        self._write("state", row, place, held)
        if self.step.history:
            self._write("states", self._row_of_token(t, c), place, held)

    def _bits(self, t: Expr, row: Expr, place: _Place) -> Callable[[int], Expr] | None:
        """The random bits of each lane: one block for all where they are eight side by side, else one for each."""
        if not self.step.stochastic:
            return None

        def words(element: Expr) -> list[Expr]:
            return self.step.words(tirx.truncdiv(element, moves.i64(random.SHARE)), t, self.buffers, moves.hold)

        if place.wide and self.lanes == random.SHARE:
            block = self.step.words(place.group(row, 0, random.SHARE), t, self.buffers, moves.hold)
            return lambda lane: random.share(block, lane)

        def alone(lane: int) -> Expr:
            element = moves.hold(row * self.n + place.column(lane))
            return random.share(words(element), tirx.truncmod(element, moves.i64(random.SHARE)))

        return alone

    def _no_states(self, t: Expr, thread: Expr) -> None:
        """States after a token that nobody had are 0."""
        if not self.step.history:
            return

        def visit(place: _Place) -> None:
            zeros = moves.Registers.private(self.lanes, self.step.kind)
            for lane in range(self.lanes):
                zeros.store(lane, tirx.const(0.0, self.step.kind))
            for turn in range(self.point.turns):
                _, c = self._channel(thread, turn)
                with moves.when(c < self.p):
                    self._write("states", self._row_of_token(t, c), place, zeros)

        self._columns(tirx.truncmod(thread, self.point.across), visit)

    def _finish(self, t: Expr, c: Expr, here: Expr, published: tirx.Var, pitch: int) -> None:
        total = moves.Registers.private(1, "float32")
        total.store(0, published[here * pitch])
        with T.unroll(self.point.across - 1) as other:
            total.store(0, total[0] + published[here * pitch + other + 1])
        self._store_y(t, c, total[0])

    def _store_y(self, t: Expr, c: Expr, dot: Expr | None) -> None:
        at = (self.i, t, *self.head, c)
        zero = tirx.const(0.0, self.step.program.dtype)
        T.buffer_store(self.buffers["y"], zero if dot is None else self.step.stage("y", at, self.step.load(self.buffers, dot=dot)), list(at))

    def _factors(self, t: Expr, c: Expr | None) -> dict[str, Expr]:
        """The step size of a head or a channel, and where it is the same for all states, the decay."""
        if c is not None:  # a channel beyond the last has none: the last one's does no harm
            c = tirx.min(c, self.p - 1)
        at = (self.i, t, *self.head, *(() if c is None else (c,)))
        delta = self.step.delta(at, self.step.load(self.buffers), moves.hold)
        if c is not None:
            return {"delta": delta}
        return {"delta": delta, "decay": moves.hold(self.step.stage("decay", at, self.step.load(self.buffers, delta=delta)))}

    def _columns(self, lane: Expr, visit: Callable[[_Place], None]) -> None:
        """Visit this thread's places along a channel."""
        width = self.lanes * self.point.across

        def sweep(wide: bool) -> None:
            with T.serial(moves.i64(0), dm.simplify(tirx.ceildiv(self.n, moves.i64(width)))) as number:
                place = _Place(self, number, lane, wide)
                with moves.when(place.starts()):
                    visit(place)

        if self.lanes == 1:
            sweep(False)
        else:
            moves.either(moves.divides(self.lanes, self.n), lambda: sweep(True), lambda: sweep(False))

    def _row(self, slot: Expr, c: Expr) -> Expr:
        """In channels: where one is among the states."""
        return ((slot * self.g + self.head[0]) * self.r + self.head[1]) * self.p + c

    def _row_of_token(self, t: Expr, c: Expr) -> Expr:
        return self._row(self.i * self.tokens + t, c)

    def _accesses(self, kind: str, place: _Place) -> list[tuple[int, int]]:
        """(first lane, lanes) of each access for the lanes of a place: float32 beside halves takes two."""
        lanes = min(self.lanes, 16 // find_dtype(kind).itemsize)
        return [(first, lanes) for first in range(0, self.lanes, lanes)] if place.wide else []

    def _flat(self, name: str) -> tuple[moves.Flat, str]:
        tensor = next(t for t in (*self.step.program.args, *self.step.program.results) if t.op.name == name)
        return moves.Flat.of(tensor, self.buffers), str(tensor.dtype)

    def _read(self, name: str, row: Expr, place: _Place, into: moves.Registers) -> None:
        flat, kind = self._flat(name)
        for first, lanes in self._accesses(kind, place):
            moves.read_vector(flat, place.group(row, first, lanes), into, first, lanes)
        if not place.wide:
            for lane in range(self.lanes):
                at = row * self.n + place.column(lane)
                into.store(lane, moves.read_guarded(flat, at, place.exists(lane), kind))

    def _write(self, name: str, row: Expr, place: _Place, values: moves.Registers) -> None:
        flat, kind = self._flat(name)
        for first, lanes in self._accesses(kind, place):
            moves.write_vector(flat, place.group(row, first, lanes), values, first, lanes)
        if not place.wide:
            for lane in range(self.lanes):
                with moves.when(place.exists(lane)):
                    flat.store(row * self.n + place.column(lane), values[lane])
