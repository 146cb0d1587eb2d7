"""The chunked scan of Mamba-2: a task walks the chunks of one sequence for a few heads of a group.

1. L1 and L2. The state of a head, and every stage of the chunk at hand, stay on the core; C B' is made once for the heads
   of a task. Memory sees each argument and result once.
2. Registers. All products go through the micro-kernel of the contractions. Stages are written where and how products read
   them, so that nothing is packed twice; below the diagonal only tiles that count are multiplied.
3. Vectors. Decays are differences of float64 levels, narrowed, and a polynomial of eight or sixteen at a time.

What is computed is the Program's; this file says in which order, and which zeros are not multiplied by.
A chunk's sums depend on its own tokens and the state that enters, never on what is packed beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir.expr import Expr
from treadle.schedules.cpu import preconditions, vecmath
from treadle.schedules.cpu.micro_kernel import refusals
from treadle.schedules.cpu.operands import ceildiv
from treadle.schedules.cpu.ssd_tiles import Held, Slots, Stages, Tile
from treadle.schedules.cuda_moves import stages
from treadle.schedules.emit import Function
from treadle.schedules.space import knob
from treadle.schedules.target import Target

GROUP = {"b_in": 2, "c_in": 2, "gram": 2}
HEAD = {"delta": 1, "level": 1, "since": 1, "until": 1, "u": 2, "late": 2, "enter": 2, "added": 2}
READ = {"mixed": 2, "within": 2, "carried": 2}
#: Tasks that are made at least, where there are as many heads: several for each core.
TASKS = 16


@dataclass(frozen=True)
class Knobs:
    mr: int = knob(6, (4, 6, 8, 12), "rows of the register tile: each costs one broadcast per step of the reduction")
    nr: int = knob(2, (1, 2), "vector registers per row of the tile: each costs one load per step")
    heads: int = knob(8, (1, 4, 8, 16), "heads of a task: they share C B', and their states lie in L2")


def applies(program: Program) -> bool:
    return program.name == "scan.mamba_chunk_scan"


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return refusals(target.cpu, point.mr, point.nr)


def default(program: Program, target: Target) -> Knobs:
    return Knobs() if target.cpu.registers == 16 else Knobs(mr=12, nr=1)


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    fn = Function(program)
    with fn as buffers:
        preconditions.emit(program, buffers)
        _, g, r, _ = program.args[0].shape
        sequences = program.results[1].shape[0]
        most, one = tirx.const(point.heads, "int64"), tirx.const(1, "int64")
        heads = T.bind(tirx.max(tirx.min(most, tirx.truncdiv(sequences * g * r, TASKS)), one))
        parts = T.bind(tirx.truncdiv(r + heads - 1, heads))
        with T.parallel(0, sequences * g * parts) as task:
            # Truncating: TVM proves no sign here, and would write out a floor division at every use.
            rest, part = T.bind(tirx.truncdiv(task, parts)), tirx.truncmod(task, parts)
            s, group = T.bind(tirx.truncdiv(rest, g)), T.bind(tirx.truncmod(rest, g))
            head = T.bind(part * heads)
            walk = Walk(program, buffers, Tile(point.mr, point.nr, target.cpu.lanes), point.heads, s, group)
            walk.forward(head, T.bind(tirx.min(heads, r - head)))
    return vecmath.vectorise(fn.primfunc)


class Walk:
    """The chunks of sequence s in order, for some heads of group g."""

    def __init__(self, program: Program, buffers: dict[str, tirx.Var], tile: Tile, heads: int, s: Expr, g: Expr) -> None:
        self.program, self.buffers, self.tile, self.s, self.g = program, buffers, tile, s, g
        self.results = {t.op.name: t for t in program.results}
        linked = list(dict(program.results[-1].op.attrs).values())
        self.stages = {t.op.name: t for end in (*program.results, *linked) for t in (*stages(end), end)}
        self.q = int(program.attrs["chunk"])
        x = next(a for a in program.args if a.op.name == "x")
        self.p = x.shape[-1]
        self.n = next(a for a in program.args if a.op.name == "B").shape[-1]
        self.begin, self.end = (T.bind(buffers["chunks"][at]) for at in (s, s + 1))
        self.known: dict[str, tuple[Expr, Expr]] = {"chunks": (self.begin, self.end)}
        self.on = Stages(tile, buffers, {"chunks": self._pair("chunks"), "first": self._pair("first"), "seq": self._seq})
        self.heads = heads

    def _pair(self, name: str) -> Callable[[Sequence[Expr]], Expr]:
        """An element of a table at an index, or at the one after it: both are known here."""
        return lambda where: self.known[name][1 if type(where[0]).__name__ == "Add" else 0]

    def _seq(self, where: Sequence[Expr]) -> Expr:
        return self.s.astype("int32")

    # -- forward ------------------------------------------------------------------------------------------------------------
    def forward(self, head: Expr, heads: Expr) -> None:
        on = self.on
        on.hold(self.stages, GROUP | HEAD | READ)
        state = on.held["before"] = on.held["left"] = Slots(self.stages["left"], self.heads, self.tile)
        on.clear()
        with T.serial(self.begin.astype("int64"), self.end.astype("int64")) as k:
            self.enter_chunk(k)
            with T.If(self.length > 0), T.Then():
                self.group(k)
            with T.serial(0, heads) as slot:
                state.slot = slot
                lead = [k, self.g, T.bind(head + slot)]
                on.fill(self.stages["enter"], lead, self.n)
                with T.If(self.length > 0):
                    with T.Then():
                        self.steps(lead)
                        self.add(lead)
                        self.read(lead)
                        self.store_tokens("y", lead)
                        on.fill(self.stages["left"], lead, self.n)
                    with T.Else():
                        self.keep(on.held["enter"], state)
        with T.serial(0, heads) as slot:
            state.slot = slot
            self.store("final", [self.s, self.g, T.bind(head + slot)], self.p, self.n)

    def enter_chunk(self, k: Expr) -> None:
        start, stop = (T.bind(self.buffers["first"][at]) for at in (k, k + 1))
        self.known["first"] = start, stop
        self.start = T.bind(start.astype("int64"))
        self.length = T.bind(stop.astype("int64") - self.start)
        #: rows of whole register tiles
        self.rows = T.bind(ceildiv(self.length, self.tile.rows) * self.tile.rows)

    def group(self, k: Expr) -> None:
        """What the heads share."""
        for name in ("b_in", "c_in"):
            self.on.fill(self.stages[name], [k, self.g], self.rows)
        self.on.product(self.stages["gram"], self.length, self.length, lambda _: (0, self.n), lower=True)

    def steps(self, lead: Sequence[Expr]) -> None:
        on, of = self.on, self.stages
        on.fill(of["delta"], lead)
        on.running(of["level"], lead)
        on.fill(of["since"], lead)
        on.fill(of["until"], lead)
        if "x_in" in on.held:
            on.fill(of["x_in"], lead, self.rows)
        on.fill(of["u"], lead, self.rows)

    def add(self, lead: Sequence[Expr]) -> None:
        """What the chunk adds to the state."""
        self.on.fill(self.stages["late"], lead, self.rows)
        self.on.product(self.stages["added"], self.n, self.p, lambda _: (0, self.length))

    def read(self, lead: Sequence[Expr]) -> None:
        on, of = self.on, self.stages
        on.fill(of["mixed"], lead, self.rows, self.below)
        on.product(of["within"], self.length, self.p, lambda row: (0, tirx.min(row + self.tile.rows, self.length)))
        on.product(of["carried"], self.length, self.p, lambda _: (0, self.n))

    def below(self, i: Expr) -> Expr:
        """Columns of a row on and below the diagonal, with those that its register tile reaches."""
        return (i // self.tile.rows + 1) * self.tile.rows

    def keep(self, source: Held, to: Held) -> None:
        """Copy a state."""
        width = self.tile.width
        with T.serial(0, ceildiv(self.p, width)) as panel, T.serial(0, self.n) as i, T.vectorized(0, width) as lane:
            read = source.buffers["panels"][source.place("panels", i, panel, lane)]
            for form, buffer in to.buffers.items():
                T.buffer_store(buffer, read, [to.place(form, i, panel, lane)])

    # -- results ------------------------------------------------------------------------------------------------------------
    def store_tokens(self, name: str, lead: Sequence[Expr]) -> None:
        """The result by token whose stage is by chunk and place."""

        def put(e: Expr, i: Expr, column: Expr) -> None:
            T.buffer_store(self.buffers[name], e, [self.start + i, *lead[1:], column])

        self.each(self.stage_of(name), lead, put)

    def stage_of(self, name: str) -> te.Tensor:
        """The stage that a result lays out by token."""
        (made,) = (t for t in self.results[name].op.input_tensors if isinstance(t.op, te.ComputeOp))
        return made

    def each(self, stage: te.Tensor, lead: Sequence[Expr], put: Callable[[Expr, Expr, Expr], None]) -> None:
        """Evaluate a stage at the places of the chunk, and give each element with its place and column to `put`."""
        column = tirx.Var("column", "int64")
        with T.serial(0, self.length) as i:
            element = self.on.scalar(stage, [*lead, i, column], column)
            width = self.tile.width
            self.on.edges(element, column, stage.shape[-1], lambda e, panel, lane: put(e, i, panel * width + lane))

    def store(self, name: str, lead: Sequence[Expr], rows: Expr, columns: Expr) -> None:
        column = tirx.Var("column", "int64")
        with T.serial(0, rows) as i:
            element = self.on.scalar(self.results[name], [*lead, i, column], column)

            def put(e: Expr, panel: Expr, lane: Expr) -> None:
                T.buffer_store(self.buffers[name], e, [*lead, i, panel * self.tile.width + lane])

            self.on.edges(element, column, columns, put)
