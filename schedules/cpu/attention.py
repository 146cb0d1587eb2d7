"""Attention, block by block of queries and keys (online softmax): no score ever leaves the core that makes it.

1. L2. A task owns a block of queries of one head and walks the keys; the scores of a block of keys, its packed keys and
   values and the mixture of the values lie in L2. Memory sees q and y once, k and v once per block of queries.
2. Registers. Both products go through the micro-kernel of the contractions. The scores are written as the first product
   leaves them, `nr` keys side by side, and read so by the second, row by row: nothing is packed in between.
3. Vectors. Largest scores, powers and their sums are loops over those panels; only the largest score is reduced across a
   vector, once per query and block.
4. Cores. Tasks are independent.

Keys beyond the last get the score minus infinity, hence the weight zero; queries beyond the last repeat it and are not stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir.expr import Expr
from treadle.schedules.attention.online import Attention
from treadle.schedules.cpu import vecmath
from treadle.schedules.cpu.loops import get, put
from treadle.schedules.cpu.micro_kernel import multiply, refusals
from treadle.schedules.cpu.operands import ceildiv
from treadle.schedules.cpu.packing import Packing
from treadle.schedules.emit import Function, Load
from treadle.schedules.space import knob
from treadle.schedules.target import Target

#: Tasks that are made at least, where there are queries enough: several for each core.
TASKS = 16
L2_BYTES = 1 << 20


@dataclass(frozen=True)
class Knobs:
    mr: int = knob(6, (2, 4, 6, 8, 12), "queries of the register tile: each costs one broadcast per step of the reduction")
    nr: int = knob(2, (1, 2, 3), "vector registers per query of the tile: each costs one load per step")
    queries: int = knob(192, (48, 96, 192, 384), "queries per task: how often a packed key is used")
    keys: int = knob(240, (48, 96, 144, 240, 480), "keys per block: scores must fit L2, and the mixture is moved once a block")


def applies(program: Program) -> bool:
    return program.name == "attention.attention"


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    cpu = target.cpu
    reasons = refusals(cpu, point.mr, point.nr, "queries")
    if point.queries % point.mr:
        reasons.append(f"a task of {point.queries} queries is not whole tiles of {point.mr}")
    if point.keys % (point.nr * cpu.lanes):
        reasons.append(f"a block of {point.keys} keys is not whole panels of {point.nr} vectors of {cpu.lanes}")
    held = 4 * (point.queries * (point.keys + 2 * program.attrs["dim"]) + 2 * point.keys * program.attrs["dim"])
    if held > 2 * L2_BYTES:
        reasons.append(f"scores, operands and sums of a task take {held >> 10} KiB, twice what L2 holds")
    return reasons


def default(program: Program, target: Target) -> Knobs:
    """The tile that wastes least of a head's last panel, as tall as the registers allow."""
    dim, cpu = program.attrs["dim"], target.cpu
    nr = min((2, 3, 1), key=lambda n: -(-dim // (n * cpu.lanes)) * n)
    tall = max(mr for mr in (2, 4, 6, 8, 12) if mr * nr + nr + 1 <= cpu.registers)
    points = (Knobs(tall, nr, queries, 240) for queries in (192, 96, 48))
    return next(p for p in points if not legal(program, target, p))


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    fn = Function(program)
    with fn as buffers:
        n, s, h, _ = program.args[0].shape
        t = program.args[1].shape[1]
        # Fewer queries a task where there are few: blocks of whole tiles, enough of them to share out.
        each = T.bind(ceildiv(s * n * h, TASKS))
        step = T.bind(tirx.min(tirx.const(point.queries, "int64"), ceildiv(tirx.min(each, s), point.mr) * point.mr))
        blocks = T.bind(ceildiv(s, step))

        with T.parallel(0, n * h * blocks) as task:
            walk = _Walk(program, point, target.cpu.lanes, lambda tensor, at: buffers[tensor.op.name][*at])
            head = T.bind(tirx.truncdiv(task, blocks))
            start = T.bind(tirx.truncmod(task, blocks) * step)
            head = [T.bind(tirx.truncdiv(head, h)), T.bind(tirx.truncmod(head, h))]
            walk.run(buffers["y"], head, start, T.bind(tirx.min(step, s - start)), t)
    return vecmath.vectorise(fn.primfunc)


class _Walk:
    """A block of queries on its way through the keys."""

    def __init__(self, program: Program, point: Knobs, lanes: int, load: Load) -> None:
        self.of = of = Attention.of(program)
        self.mr, self.vectors, self.lanes, self.width = point.mr, point.nr, lanes, point.nr * lanes
        self.dim = program.attrs["dim"]
        #: Queries and keys of a block at most, and the rows that the two operands of a panel are apart.
        self.most, self.keys = point.queries, point.keys
        self.panels = -(-self.dim // self.width)
        self.pack_scores = Packing(of.scores, load, lanes, self.dim)
        self.pack_mixture = Packing(of.mixture, load, lanes, point.keys)
        room = lambda elements: T.alloc_buffer((elements,), "float32")  # noqa: E731
        self.q, self.k = room(self.most * self.dim), room(self.keys * self.dim)
        self.v = room(self.panels * self.width * self.keys)
        self.scores = room(self.most * self.keys)
        self.mixed = room(self.panels * self.most * self.width)
        self.top, self.total = room(self.most), room(self.most * self.width)
        self.part, self.fading = (T.alloc_buffer((size,), "float32", scope="local") for size in (self.width, 1))

    def run(self, y: tirx.Var, head: list[Expr], start: Expr, count: Expr, t: Expr) -> None:
        zero, dim, width = (tirx.const(size, "int64") for size in (0, self.dim, self.width))
        tiles = T.bind(ceildiv(count, self.mr))
        rows = T.bind(tiles * self.mr)
        self.pack_scores.rows(self.q, head, start, count, zero, dim, self.mr)
        self.begin(rows)
        with T.serial(0, ceildiv(t, self.keys)) as block:
            key = T.bind(block * self.keys)
            keys = T.bind(tirx.min(tirx.const(self.keys, "int64"), t - key))
            panels = T.bind(ceildiv(keys, self.width))
            self.pack_scores.columns(self.k, head, key, keys, zero, dim, self.width)
            self.pack_mixture.columns(self.v, head, zero, dim, key, keys, self.width)
            with T.serial(0, panels) as p, T.serial(0, tiles) as i:
                multiply(
                    self.mr, self.vectors, self.lanes, dim,
                    lambda r, step: self.q[self.pack_scores.row_at(i, r, step, self.mr)],
                    lambda step: (self.k, (p * self.dim + step) * self.width),
                    (self.scores, self.at(p, i * self.mr)), tirx.const(True, "bool"),
                )  # fmt: skip
            with T.If(keys % self.width != 0), T.Then():
                self.close(panels - 1, keys % self.width, rows)
            with T.serial(0, rows) as row:
                self.weigh(row, panels)
            with T.serial(0, self.panels) as p, T.serial(0, tiles) as i:
                multiply(
                    self.mr, self.vectors, self.lanes, keys,
                    lambda r, step: self.scores[self.at(tirx.truncdiv(step, width), i * self.mr + r) + tirx.truncmod(step, width)],
                    lambda step: (self.v, (p * self.keys + step) * self.width),
                    (self.mixed, self.at(p, i * self.mr)), tirx.const(False, "bool"),
                )  # fmt: skip
        with T.serial(0, count) as row:
            self.store(y, head, start, row)

    def at(self, panel: Expr, row: Expr) -> Expr:
        """Where a query's part of a panel lies, in scores and mixture alike."""
        return (panel * self.most + row) * self.width

    def across(self, each: Callable[[Expr], None]) -> None:
        with T.vectorized(0, self.width) as lane:
            each(lane)

    def begin(self, rows: Expr) -> None:
        nothing = tirx.const(0.0, "float32")
        with T.serial(0, rows) as row:
            T.buffer_store(self.top, tirx.min_value("float32"), [row])
            self.across(lambda lane: T.buffer_store(self.total, nothing, [row * self.width + lane]))
            with T.serial(0, self.panels) as p:
                self.across(lambda lane: T.buffer_store(self.mixed, nothing, [self.at(p, row) + lane]))

    def close(self, panel: Expr, keys: Expr, rows: Expr) -> None:
        """No key beyond the last has any weight."""
        with T.serial(0, rows) as row, T.serial(0, self.width - keys) as lane:
            T.buffer_store(self.scores, tirx.const(float("-inf"), "float32"), [self.at(panel, row) + keys + lane])

    def weigh(self, row: Expr, panels: Expr) -> None:
        """Turn a query's scores into powers, and what it has gathered into what that is worth now."""
        of, part = self.of, self.part
        score = lambda p, lane: of.scaled(self.scores[self.at(p, row) + lane])  # noqa: E731
        self.across(lambda lane: T.buffer_store(part, score(tirx.const(0, "int64"), lane), [lane]))
        with T.serial(0, panels - 1) as p:
            self.across(lambda lane: T.buffer_store(part, tirx.max(part[lane], score(p + 1, lane)), [lane]))
        old = T.bind(self.top[row])
        top = T.bind(tirx.max(old, self.largest()))
        # In memory: TVM cannot bind a name to the exponential's own.
        T.buffer_store(self.fading, of.weight(old, top), [0])
        fading = self.fading[0]
        T.buffer_store(self.top, top, [row])
        self.across(lambda lane: T.buffer_store(part, tirx.const(0.0, "float32"), [lane]))
        with T.serial(0, panels) as p:
            place = self.at(p, row)
            self.across(lambda lane: T.buffer_store(self.scores, of.weight(score(p, lane), top), [place + lane]))
            self.across(lambda lane: T.buffer_store(part, part[lane] + self.scores[place + lane], [lane]))
        mine = row * self.width
        self.across(lambda lane: T.buffer_store(self.total, self.total[mine + lane] * fading + part[lane], [mine + lane]))
        with T.If(fading != tirx.const(1.0, "float32")), T.Then(), T.serial(0, self.panels) as p:
            place = self.at(p, row)
            self.across(lambda lane: T.buffer_store(self.mixed, self.mixed[place + lane] * fading, [place + lane]))

    def largest(self) -> Expr:
        """The largest element of `part`: vector against vector, then halves of one."""
        part, lanes = self.part, self.lanes
        for v in range(1, self.vectors):
            put(part, 0, lanes, tirx.max(get(part, 0, lanes), get(part, v * lanes, lanes)))
        while (lanes := lanes // 2) > 1:
            put(part, 0, lanes, tirx.max(get(part, 0, lanes), get(part, lanes, lanes)))
        return tirx.max(part[0], part[1])

    def store(self, y: tirx.Var, head: list[Expr], start: Expr, row: Expr) -> None:
        total = T.alloc_buffer((1,), "float32", scope="local")
        T.buffer_store(total, self.total[row * self.width], [0])
        with T.serial(0, self.width - 1) as lane:
            T.buffer_store(total, total[0] + self.total[row * self.width + lane + 1], [0])

        def put_one(column: Expr, from_: Expr) -> None:
            index = self.of.mixture.index(head, start + row, column)
            T.buffer_store(y, self.of.finish(self.mixed[from_], total[0]), index)

        whole, rest = divmod(self.dim, self.lanes)
        with T.serial(0, whole) as v, T.vectorized(0, self.lanes) as lane:
            column = v * self.lanes + lane
            put_one(column, self.at(v // self.vectors, row) + v % self.vectors * self.lanes + lane)
        with T.serial(0, rest) as lane:
            column = tirx.const(whole * self.lanes, "int64") + lane
            put_one(column, self.at(column // self.width, row) + column % self.width)
