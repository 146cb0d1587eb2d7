"""The adjoint of the chunked scan: a task walks its chunks forward for the states that enter them, then backward.

Everything else is as in schedules/cpu/ssd.py. The states that enter a task's chunks are kept in memory meanwhile: making one
again takes the walk up to it. The heads of a task are those whose gradients of B and C are added up in one part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir.expr import Expr
from treadle.ir.ops.scan.mamba_chunk_scan_form import HEADS
from treadle.schedules.cpu import preconditions, ssd, vecmath
from treadle.schedules.cpu.ssd_tiles import Slots, Tile
from treadle.schedules.emit import Function
from treadle.schedules.space import knob
from treadle.schedules.target import Target

SQUARES = {"agree": 2, "drawn": 2}
STATES = {"dleft": 2, "taken": 2}
ROWS = {n: 2 for n in ("x_in", "gy", "early", "du_within", "du_state", "db_within", "db_state", "dc_within", "dc_state")}
PLACES = {n: 1 for n in ("rows", "columns", "readout", "supply", "later", "earlier", "pull", "shared")}


@dataclass(frozen=True)
class Knobs:
    mr: int = knob(6, (4, 6, 8, 12), "rows of the register tile: each costs one broadcast per step of the reduction")
    nr: int = knob(2, (1, 2), "vector registers per row of the tile: each costs one load per step")


legal = ssd.legal


def applies(program: Program) -> bool:
    return program.name == "scan.mamba_chunk_scan_adjoint"


def default(program: Program, target: Target) -> Knobs:
    return Knobs() if target.cpu.registers == 16 else Knobs(mr=12, nr=1)


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    fn = Function(program)
    with fn as buffers:
        preconditions.emit(program, buffers)
        _, g, r, _ = program.args[0].shape
        sequences = program.args[1].shape[0]
        parts = tirx.truncdiv(r + (HEADS - 1), HEADS)
        with T.parallel(0, sequences * g * parts) as task:
            rest, part = T.bind(tirx.truncdiv(task, parts)), T.bind(tirx.truncmod(task, parts))
            s, group = T.bind(tirx.truncdiv(rest, g)), T.bind(tirx.truncmod(rest, g))
            walk = Backward(program, buffers, Tile(point.mr, point.nr, target.cpu.lanes), HEADS, s, group)
            walk.run(part, T.bind(tirx.min(tirx.const(HEADS, "int64"), r - part * HEADS)))
    return vecmath.vectorise(fn.primfunc)


class Backward(ssd.Walk):
    def run(self, part: Expr, heads: Expr) -> None:
        on, of = self.on, self.stages
        gated = "dz" in self.results
        ends = {"dD": 1} if "dD" in self.results else {}
        read = ssd.READ if gated else {"mixed": 2}
        held = ssd.GROUP | ssd.HEAD | read | SQUARES | STATES | ROWS | PLACES | {"kept": 0} | ends
        on.hold(of, held, ("enter", "dleft"))
        state = on.held["before"] = on.held["left"] = Slots(of["left"], HEADS, self.tile)
        slope = on.held["after"] = on.held["denter"] = Slots(of["denter"], HEADS, self.tile)
        first, last = (T.bind(at.astype("int64")) for at in (self.begin, self.end))
        # Of all chunks: TVM moves the allocation before the statements that say how many this sequence has. Only pages that
        # are written take memory.
        count = next(a for a in self.program.args if a.op.name == "seq").shape[0]
        entered = Slots(of["enter"], count * HEADS, self.tile)
        on.clear()
        self.part, base = part, T.bind(part * HEADS)

        with T.serial(first, last) as k:
            self.enter_chunk(k)
            on.fill(of["b_in"], [k, self.g], self.rows)
            with T.serial(0, heads) as slot:
                state.slot, entered.slot = slot, (k - first) * HEADS + slot
                lead = [k, self.g, T.bind(base + slot)]
                on.fill(of["enter"], lead, self.n)
                self.keep(on.held["enter"], entered)
                with T.If(self.length > 0):
                    with T.Then():
                        self.steps(lead)
                        self.add(lead)
                        on.fill(of["left"], lead, self.n)
                    with T.Else():
                        self.keep(on.held["enter"], state)

        with T.serial(0, last - first) as back:
            k = T.bind(last - 1 - back)
            self.enter_chunk(k)
            with T.If(self.length > 0), T.Then():
                self.group(k)
            with T.serial(0, heads) as slot:
                slope.slot, entered.slot = slot, (k - first) * HEADS + slot
                lead = [k, self.g, T.bind(base + slot)]
                on.fill(of["dleft"], lead, self.n)
                with T.If(self.length > 0):
                    with T.Then():
                        self.keep(entered, on.held["enter"])
                        self.chunk(lead, slot, gated)
                        on.fill(of["denter"], lead, self.n)
                    with T.Else():
                        self.keep(on.held["dleft"], slope)
                self.sums(lead)
        with T.serial(0, heads) as slot:
            slope.slot = slot
            self.store("dinitial", [self.s, self.g, T.bind(base + slot)], self.p, self.n)

    def chunk(self, lead: Sequence[Expr], slot: Expr, gated: bool) -> None:
        on, of, length, tile = self.on, self.stages, self.length, self.tile
        self.steps(lead)
        for name in ("gy", "early"):
            on.fill(of[name], lead, self.rows)
        if gated:
            self.read(lead)
        else:
            on.fill(of["mixed"], lead, self.rows, self.below)

        def all_of(size: Expr):
            return lambda _: (0, size)

        def above(row: Expr) -> tuple[Expr, Expr]:
            return row, length

        def below(row: Expr) -> tuple[Expr, Expr]:
            return tirx.const(0, "int64"), tirx.min(row + tile.rows, length)

        on.product(of["agree"], length, length, all_of(self.p), lower=True)
        on.fill(of["drawn"], lead, self.rows, self.below)
        on.product(of["du_within"], length, self.p, above)
        on.product(of["du_state"], length, self.p, all_of(self.n))
        on.product(of["db_within"], length, self.n, above)
        on.product(of["db_state"], length, self.n, all_of(self.p))
        on.product(of["dc_within"], length, self.n, below)
        on.product(of["dc_state"], length, self.n, all_of(self.p))
        on.product(of["taken"], self.n, self.p, all_of(length))
        self.exponents(lead)
        for name in ("dx", "dz") if gated else ("dx",):
            self.store_tokens(name, lead)
        for name in ("dB", "dC"):
            self.add_part(name, lead, slot)

    def exponents(self, lead: Sequence[Expr]) -> None:
        on, of, length = self.on, self.stages, self.length
        on.total(of["rows"], lead, length, length, "columns")
        on.total(of["columns"], lead, length, length, "rows")
        on.total(of["readout"], lead, length, self.n, "columns")
        for name in ("supply", "shared"):
            on.total(of[name], lead, length, self.p, "columns")
        on.total(of["kept"], lead, self.n, self.p, "both")
        on.running(of["later"], lead, length)
        on.running(of["earlier"], lead, length)
        on.fill(of["pull"], lead)
        with T.serial(0, length) as i:
            for name in ("ddt", "dA"):
                T.buffer_store(self.buffers[name], on.scalar(self.stage_of(name), [*lead, i]), [self.start + i, *lead[1:]])

    def add_part(self, name: str, lead: Sequence[Expr], slot: Expr) -> None:
        """Add what a head gives to its part, which the first head begins."""
        out = self.buffers[name]

        def put(e: Expr, i: Expr, column: Expr) -> None:
            at = [self.start + i, self.g, self.part, column]
            begun = tirx.if_then_else(slot == 0, tirx.const(0.0, "float32"), out[*at])
            T.buffer_store(out, begun + e, at)

        self.each(self.stages[name.lower()], lead, put)

    def sums(self, lead: Sequence[Expr]) -> None:
        """What is added up over the places of a chunk, be it empty."""
        if "dD" in self.results:
            self.on.total(self.results["dD"], lead, self.length, self.p, "rows")
            (summed,) = self.on.held["dD"].buffers.values()
            with T.serial(0, self.p) as c:
                T.buffer_store(self.buffers["dD"], summed[c], [*lead, c])
