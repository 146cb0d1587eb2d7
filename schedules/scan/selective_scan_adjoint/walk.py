"""A walk forward, a walk back: checkpoints of the states at every tile, then each tile again from its own, last tile first. Moves:

1. *checkpoints where gradients will be*: a tile of 32 steps of 32 channels has as many checkpoints as dB of the block has
   elements in it. They stand there until the walk back has read them; no memory is asked for. The last tile's, which may be
   short, stand in dA.
2. *half a tile in registers*: a warp takes one state of its 32 channels to the middle of the tile and marks it; then 16 steps
   at a time, the last first: forward again, their states and decays in registers, and back.
3. *gradients of B and C across lanes*: the products of a tile go through shared memory once, a row of 32 channels to each
   thread, in channel order.
4. *sums over states* of what u and the step receive are each thread's own places in shared memory: in registers, 96 of
   them had the rest spill.

Floor: dy, u, delta, z read, three gradients of their size written, and 8 N / 32 bytes for dB and dC; 2.5 N exponentials a step and
channel. ptxas (nvcc 13.0, sm_90a, 2026-11-24, N = 16, gate): 245 registers in float32, 254 in bfloat16, 96 KB of shared
memory, no spills, 12 % of the warps of a multiprocessor. Never run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir.expr import Expr
from treadle.schedules import cuda_moves as moves
from treadle.schedules.emit import Function
from treadle.schedules.scan.kernel import Arena
from treadle.schedules.scan.selective_block import WARP, Block, Tile
from treadle.schedules.selective_family import GRADIENTS, NAMES, SUMS, Family
from treadle.schedules.space import knob
from treadle.schedules.target import Target

SERIAL = True
TILE = WARP
#: Steps whose states and decays are in registers at once.
KEPT = 16


@dataclass(frozen=True)
class Knobs:
    warps: int = knob(4, (1, 2, 4), "states that a block walks at once")


def applies(program: Program) -> bool:
    return program.name == NAMES[1]


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    n = int(program.attrs["state"])
    if point.warps > 1 and point.warps >= 2 * n:
        return [f"{n} states leave some of {point.warps} warps without any"]
    return []


def default(program: Program, target: Target) -> Knobs:
    return next(p for p in (Knobs(4), Knobs(2), Knobs(1)) if not legal(program, target, p))


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    family = Family.of(program)
    s, g, r, _ = family.sizes
    function = Function(program)
    with function as buffers:
        count = s * g * tirx.ceildiv(r, moves.i64(family.part))
        with moves.blocks(count) as block:
            _Backward(Block(family, buffers, WARP * point.warps, TILE, 0, block), point.warps).emit()
    return function.primfunc


class _Backward:
    def __init__(self, block: Block, warps: int) -> None:
        assert block.family.part == WARP
        self.block, self.warps = block, warps
        family, self.buffers = block.family, block.buffers
        self.rows = {name: Tile.of(TILE, WARP) for name in ("step", "u", "dtotal")}
        self.products = [Tile.of(warps, TILE, WARP) for _ in range(2)]
        self.wide = {name: Tile.of(warps, TILE) for name in ("B", "C")}
        self.summed = ["dstep", "du_scan", *(["total"] if "dz" in family.stored else [])]
        # Each place has one thread until the tile is stored: as plain pointers, or TVM would put barriers between them.
        size = warps * TILE * (WARP + 1)
        arena = Arena([((moves.i64(size),), "float32") for _ in self.summed])
        self.sums = {n: Tile((warps, TILE, WARP + 1), b) for n, b in zip(self.summed, arena.buffers, strict=True)}
        self.own = {n: T.sblock_alloc_buffer((block.threads, 1), "float32", scope="local") for n in SUMS}
        self.turns = -(-block.n // warps)

    def emit(self) -> None:
        block = self.block
        self._begin()
        with T.serial(0, block.tiles - 1) as tile:
            block.stage(("step", "u"), {n: self.rows[n] for n in ("step", "u")}, tile * TILE)
            self._checkpoint(tile)
        with T.serial(0, block.tiles) as back:
            tile = block.tiles - 1 - back
            t = tile * TILE
            block.stage(("step", "u", "dtotal"), self.rows, t)
            with moves.phase(block.threads) as thread, T.serial(0, TILE) as l:
                c, k = block.split(thread)
                for sums in self.sums.values():
                    sums.store((k, l, c), moves.f32(0.0))
            with T.serial(0, self.turns) as turn:
                self._stage_wide(turn, t)
                self._there_and_back(turn, tile, t)
                self._parts(turn, t)
            self._store(t)
        self._finish()

    # -- places -------------------------------------------------------------------------------------------------------------
    def _state(self, turn: Expr, k: Expr) -> Expr:
        return (turn * self.warps + k).astype("int64")

    def _by_state(self, c: Expr, n: Expr) -> list[Expr]:
        return [self.block.s, self.block.g, self.block.first + c, n]

    def _of_part(self, n: Expr, t: Expr) -> list[Expr]:
        return [self.block.s, self.block.g, self.block.part, n, t]

    def _load_checkpoint(self, tile: Expr, c: Expr, n: Expr) -> Expr:
        block = self.block
        short = self.buffers["dA"][*self._by_state(c, n)]
        last = tirx.if_then_else(c < block.count, short, moves.f32(0.0))
        return tirx.if_then_else(tile == block.tiles - 1, last, self.buffers["dB"][*self._of_part(n, tile * TILE + c)])

    def _store_checkpoint(self, tile: Expr, c: Expr, n: Expr, value: Expr) -> None:
        block = self.block
        with T.If(tile == block.tiles - 1):
            with T.Then(), moves.when(c < block.count):
                T.buffer_store(self.buffers["dA"], value, self._by_state(c, n))
            with T.Else():
                T.buffer_store(self.buffers["dB"], value, self._of_part(n, tile * TILE + c))

    # -- phases -------------------------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        block = self.block
        with moves.phase(block.threads) as thread:
            c, k = block.split(thread)
            for registers in self.own.values():
                T.buffer_store(registers, moves.f32(0.0), [thread, 0])
            with T.serial(0, self.turns) as turn:
                n = self._state(turn, k)
                with moves.when(n < block.n):
                    at = self._by_state(c, n)
                    initial = tirx.if_then_else(c < block.count, self.buffers["initial"][*at], moves.f32(0.0))
                    self._store_checkpoint(moves.i64(0), c, n, initial)
                    with moves.when(c < block.count):
                        T.buffer_store(self.buffers["dinitial"], self.buffers["dlast"][*at], at)

    def _stage_wide(self, turn: Expr, t: Expr) -> None:
        """B and C of the states at hand, each step's by one thread; from memory every step would keep an address."""
        block = self.block
        with moves.phase(block.threads) as thread:
            l, k = block.split(thread)
            n = self._state(turn, k)
            inside = tirx.all(n < block.n, t + l < block.steps)
            for name, wide in self.wide.items():
                here = self.buffers[name][block.s, block.g, n, t + l].astype("float32")
                wide.store((k, l), tirx.if_then_else(inside, here, moves.f32(0.0)))

    def _checkpoint(self, tile: Expr) -> None:
        """The states after a tile, which is whole and not the last."""
        block = self.block
        with moves.phase(block.threads) as thread:
            c, k = block.split(thread)
            with T.serial(0, self.turns) as turn:
                n = self._state(turn, k)
                with moves.when(n < block.n):
                    h, rate = (moves.Registers.private(1, "float32") for _ in range(2))
                    h.store(0, self._load_checkpoint(tile, c, n))
                    rate.store(0, block.rate(c, n))
                    with T.serial(0, TILE // 8) as eight:
                        for i in range(8):
                            l = eight * 8 + i
                            at = {name: T.bind(self.rows[name][l, c]) for name in ("step", "u")}
                            at["B"] = self.buffers["B"][block.s, block.g, n, tile * TILE + l].astype("float32")
                            at["decay"] = T.bind(block.decay(at, rate[0], i))
                            h.store(0, block.advance(at, h[0]))
                    self._store_checkpoint(tile + 1, c, n, h[0])

    def _there_and_back(self, turn: Expr, tile: Expr, t: Expr) -> None:
        block, family, back = self.block, self.block.family, self.block.family.back
        assert back is not None
        values = {o.tensor.op.name: o.value for o in back.outputs if o.tensor.op.name in GRADIENTS}
        with moves.phase(block.threads) as thread:
            c, k = block.split(thread)
            n = self._state(turn, k)
            with moves.when(n < block.n):
                decays, states = moves.Registers.private(KEPT, "float32"), moves.Registers.private(KEPT + 1, "float32")
                rate, pushed, da = (moves.Registers.private(1, "float32") for _ in range(3))
                rate.store(0, block.rate(c, n))
                place = self._by_state(c, n)
                there = c < block.count
                pushed.store(0, tirx.if_then_else(there, self.buffers["dinitial"][*place], moves.f32(0.0)))
                da.store(0, moves.f32(0.0))
                a = T.bind(self.buffers["A"][block.g, block.channel(c), n])

                def forward(l: Expr | int) -> dict[str, Expr]:
                    at = {name: T.bind(self.rows[name][l, c]) for name in ("step", "u")}
                    at["B"] = T.bind(self.wide["B"][k, l])
                    return {**at, "decay": T.bind(block.decay(at, rate[0], 0))}

                marks = moves.Registers.private(TILE // KEPT, "float32")
                marks.store(0, self._load_checkpoint(tile, c, n))
                for m in range(1, TILE // KEPT):
                    marks.store(m, marks[m - 1])
                    with T.serial((m - 1) * KEPT, m * KEPT) as l:
                        marks.store(m, block.advance(forward(l), marks[m]))
                for first in reversed(range(0, TILE, KEPT)):
                    states.store(0, marks[first // KEPT])
                    for i in range(KEPT):
                        l = first + i
                        at = forward(l)
                        decays.store(i, at["decay"])
                        states.store(i + 1, block.advance(at, states[i]))
                        if "total" in self.sums:
                            at["C"] = self.wide["C"][k, l]
                            total = self.sums["total"]
                            total.store((k, l, c), total[k, l, c] + block.total(at, states[i + 1]))
                    for i in reversed(range(KEPT)):
                        l = first + i
                        at = {name: T.bind(rows[l, c]) for name, rows in self.rows.items()}
                        at |= {name: T.bind(wide[k, l]) for name, wide in self.wide.items()}
                        at |= {"A": a, "decay": decays[i], "past": states[i], "now": states[i + 1]}
                        carry = T.bind(family.bound(back, back.source, at) + pushed[0])
                        given = {name: family.bound(back, value, at, carry) for name, value in values.items()}
                        da.store(0, da[0] + given["dA"])
                        for name in ("dstep", "du_scan"):
                            sums = self.sums[name]
                            sums.store((k, l, c), sums[k, l, c] + given[name])
                        for products, name in zip(self.products, ("dB", "dC"), strict=True):
                            products.store((k, l, c), given[name])
                        pushed.store(0, at["decay"] * carry)
                with moves.when(there):
                    before = tirx.if_then_else(tile == block.tiles - 1, moves.f32(0.0), self.buffers["dA"][*place])
                    T.buffer_store(self.buffers["dA"], before + da[0], place)
                    T.buffer_store(self.buffers["dinitial"], pushed[0], place)

    def _parts(self, turn: Expr, t: Expr) -> None:
        """dB and dC of the states at hand: a thread adds up the channels of one step."""
        block = self.block
        with moves.phase(block.threads) as thread:
            l, k = block.split(thread)
            n = self._state(turn, k)
            with moves.when(tirx.all(n < block.n, t + l < block.steps)):
                for products, name in zip(self.products, ("dB", "dC"), strict=True):
                    total = moves.Registers.private(1, "float32")
                    total.store(0, products[k, l, 0])
                    with T.unroll(WARP - 1) as c:
                        total.store(0, total[0] + products[k, l, c + 1])
                    T.buffer_store(self.buffers[name], total[0], self._of_part(n, t + l))

    def _store(self, t: Expr) -> None:
        """What is made by row of the sums over states."""
        block, rows = self.block, self.rows
        with moves.phase(block.threads) as thread:

            def put(c: Expr, l: Expr) -> None:
                at = [block.s, block.g, block.first + c, t + l]
                known = {name: self._over_warps(sums, l, c) for name, sums in self.sums.items()}
                known["dtotal"] = rows["dtotal"][l, c]
                held = moves.Registers.private(1, "float32")
                for name, (result, stage) in block.family.stored.items():
                    if name in SUMS:
                        continue
                    held.store(0, moves.f32(0.0))
                    with moves.when(tirx.all(c < block.count, t + l < block.steps)):
                        held.store(0, block.made(stage, at, known.get))
                        T.buffer_store(self.buffers[name], held[0].astype(str(result.dtype)), at)
                    if name == "ddelta":  # for its sum; the tile's steps are not asked for any more
                        rows["step"].store((l, c), held[0])

            block.elements(thread, put)
        self._add_up()

    def _add_up(self) -> None:
        """Sums over the steps of a channel, each thread those of its share of the tile."""
        block, share = self.block, TILE // self.warps
        assert block.family.stored["ddelta_bias"][1].same_as(block.family.stored["ddelta"][1])
        with moves.phase(block.threads) as thread:
            c, k = block.split(thread)
            with T.serial(0, share) as j:
                l = k * share + j
                terms = {"dD": block.made(block.family.stored["dD"][1], [moves.i64(0)] * 4, self._here(l, c))}
                terms["ddelta_bias"] = self.rows["step"][l, c]
                for name, own in self.own.items():
                    T.buffer_store(own, own[thread, 0] + terms[name], [thread, 0])

    def _here(self, l: Expr, c: Expr) -> Callable[[str], Expr | None]:
        return lambda name: self.rows[name][l, c] if name in ("u", "dtotal") else None

    def _over_warps(self, sums: Tile, l: Expr, c: Expr) -> Expr:
        total: Expr = sums[0, l, c]
        for k in range(1, self.warps):
            total = total + sums[k, l, c]
        return total

    def _finish(self) -> None:
        """Sums over the steps of a channel, over the threads that have parts of them."""
        block = self.block
        with moves.phase(block.threads) as thread:
            c, k = block.split(thread)
            for products, own in zip(self.products, self.own.values(), strict=True):
                products.store((0, k, c), own[thread, 0])
        with moves.phase(block.threads) as thread, moves.when(tirx.all(thread < WARP, thread < block.count)):
            for products, name in zip(self.products, self.own, strict=True):
                total: Expr = products[0, 0, thread]
                for k in range(1, self.warps):
                    total = total + products[0, k, thread]
                T.buffer_store(self.buffers[name], total, [block.s, block.g, block.first + thread])
