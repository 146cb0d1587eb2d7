"""A walk forward, a walk back: checkpoints of the states at every tile, then each tile again from its own, last tile first. Moves:

1. *checkpoints where gradients will be*: a tile of 32 steps of 32 channels has as many checkpoints as dB of the block has
   elements in it. They stand there until the walk back has read them; no memory is asked for. The last tile's, which may be
   short, stand in dA.
2. *half a tile in registers*: a warp takes one state of its 32 channels through half a tile, states and decays of its steps
   in registers, and back again: the later half first, so that the way to it is walked twice.
3. *gradients of B and C across lanes*: the products of a tile go through shared memory once, a row of 32 channels to each
   thread, in channel order.
4. *sums over states* of what u and the step receive stay in registers for all states of a warp.

Floor: dy, u, delta, z read, three gradients of their size written, and 8 N / 32 bytes for dB and dC; 2.5 N exponentials a
step and channel. Never run on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir.expr import Expr
from treadle.schedules import cuda_moves as moves
from treadle.schedules.emit import Function
from treadle.schedules.scan.selective_block import WARP, Block, Tile
from treadle.schedules.selective_family import GRADIENTS, NAMES, SUMS, Family
from treadle.schedules.space import knob
from treadle.schedules.target import Target

SERIAL = True
TILE = WARP
#: Steps whose states and decays are in registers at once. Still too many with the 96 sums of a tile beside them: ptxas (nvcc
#: 13.0, sm_90a, 2026-11-24) spills 60 bytes in float32 and 208 in bfloat16, so that a build asks for a waiver. A quarter spills
#: more: the sums should go to shared memory.
HALF = TILE // 2


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
        self.summed = ["dstep", "du_scan", *(["total"] if "dz" in family.stored else [])]
        self.sums = {n: T.sblock_alloc_buffer((block.threads, TILE), "float32", scope="local") for n in self.summed}
        self.own = {n: T.sblock_alloc_buffer((block.threads, TILE // warps), "float32", scope="local") for n in SUMS}
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
            with moves.phase(block.threads) as thread:
                for registers in self.sums.values():
                    with T.unroll(TILE) as l:
                        T.buffer_store(registers, moves.f32(0.0), [thread, l])
            with T.serial(0, self.turns) as turn:
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
                with T.unroll(TILE // self.warps) as j:
                    T.buffer_store(registers, moves.f32(0.0), [thread, j])
            with T.serial(0, self.turns) as turn:
                n = self._state(turn, k)
                with moves.when(n < block.n):
                    at = self._by_state(c, n)
                    initial = tirx.if_then_else(c < block.count, self.buffers["initial"][*at], moves.f32(0.0))
                    self._store_checkpoint(moves.i64(0), c, n, initial)
                    with moves.when(c < block.count):
                        T.buffer_store(self.buffers["dinitial"], self.buffers["dlast"][*at], at)

    def _wide(self, name: str, n: Expr, t: Expr) -> Expr:
        """The same for a whole warp; beyond the last step, where nothing comes of it, the last."""
        at = tirx.min(t, self.block.steps - 1)
        return self.buffers[name][self.block.s, self.block.g, n, at].astype("float32")

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
                            at["B"] = self._wide("B", n, tile * TILE + l)
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
                decays, states = moves.Registers.private(HALF, "float32"), moves.Registers.private(HALF + 1, "float32")
                rate, pushed, da = (moves.Registers.private(1, "float32") for _ in range(3))
                # Not bound to a variable: where threads are made serial, TVM takes a bfloat16 cast that is bound for an integer.
                wide = {name: moves.Registers.private(1, "float32") for name in ("B", "C")}
                rate.store(0, block.rate(c, n))
                place = self._by_state(c, n)
                there = c < block.count
                pushed.store(0, tirx.if_then_else(there, self.buffers["dinitial"][*place], moves.f32(0.0)))
                da.store(0, moves.f32(0.0))
                a = T.bind(self.buffers["A"][block.g, block.channel(c), n])

                def forward(l: int) -> dict[str, Expr]:
                    at = {name: T.bind(self.rows[name][l, c]) for name in ("step", "u")}
                    wide["B"].store(0, self._wide("B", n, t + l))
                    return {**at, "B": wide["B"][0], "decay": T.bind(block.decay(at, rate[0], l))}

                for first in (HALF, 0):
                    states.store(0, self._load_checkpoint(tile, c, n))
                    for l in range(first):
                        states.store(0, block.advance(forward(l), states[0]))
                    for i in range(HALF):
                        l = first + i
                        at = forward(l)
                        decays.store(i, at["decay"])
                        states.store(i + 1, block.advance(at, states[i]))
                        if "total" in self.sums:
                            at["C"] = self._wide("C", n, t + l)
                            total = self.sums["total"]
                            T.buffer_store(total, total[thread, l] + block.total(at, states[i + 1]), [thread, l])
                    for i in reversed(range(HALF)):
                        l = first + i
                        at = {name: T.bind(rows[l, c]) for name, rows in self.rows.items()}
                        for name, held in wide.items():
                            held.store(0, self._wide(name, n, t + l))
                            at[name] = held[0]
                        at |= {"A": a, "decay": decays[i], "past": states[i], "now": states[i + 1]}
                        carry = T.bind(family.bound(back, back.source, at) + pushed[0])
                        given = {name: family.bound(back, value, at, carry) for name, value in values.items()}
                        da.store(0, da[0] + given["dA"])
                        for name in ("dstep", "du_scan"):
                            sums = self.sums[name]
                            T.buffer_store(sums, sums[thread, l] + given[name], [thread, l])
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
        """What is made by row of the sums over states, which go through shared memory two at a time."""
        block = self.block
        stored = {name: s for name, s in block.family.stored.items() if name not in SUMS}
        rounds = [(["dstep", "du_scan"], ["du", "ddelta"]), *([(["total"], ["dz"])] if "total" in self.sums else [])]
        for sums, results in rounds:
            with moves.phase(block.threads) as thread:
                c, k = block.split(thread)
                for products, name in zip(self.products, sums, strict=False):
                    with T.unroll(TILE) as l:
                        products.store((k, l, c), self.sums[name][thread, l])
            with moves.phase(block.threads) as thread:
                l, k = block.split(thread)
                for j in range(TILE // self.warps):
                    c = k * (TILE // self.warps) + j
                    with moves.when(tirx.all(c < block.count, t + l < block.steps)):
                        at = [block.s, block.g, block.first + c, t + l]
                        known = {name: T.bind(self._over_warps(p, l, c)) for p, name in zip(self.products, sums, strict=False)}
                        known["dtotal"] = T.bind(self.rows["dtotal"][l, c])
                        for name in results:
                            result, stage = stored[name]
                            here = block.made(stage, at, known.get)
                            T.buffer_store(self.buffers[name], here.astype(str(result.dtype)), at)
                        for name in SUMS if sums[0] == "dstep" else ():
                            _, stage = block.family.stored[name]
                            own = self.own[name]
                            T.buffer_store(own, own[thread, j] + block.made(stage, at, known.get), [thread, j])

    def _over_warps(self, products: Tile, l: Expr, c: Expr) -> Expr:
        total: Expr = products[0, l, c]
        for k in range(1, self.warps):
            total = total + products[k, l, c]
        return total

    def _finish(self) -> None:
        """Sums over the steps of a channel: those of each lane's steps, then over the lanes."""
        block = self.block
        with moves.phase(block.threads) as thread:
            l, k = block.split(thread)
            for products, name in zip(self.products, SUMS, strict=True):
                for j in range(TILE // self.warps):
                    products.store((0, k * (TILE // self.warps) + j, l), self.own[name][thread, j])
        with moves.phase(block.threads) as thread, moves.when(tirx.all(thread < WARP, thread < block.count)):
            for products, name in zip(self.products, SUMS, strict=True):
                total = moves.Registers.private(1, "float32")
                total.store(0, products[0, thread, 0])
                with T.unroll(WARP - 1) as l:
                    total.store(0, total[0] + products[0, thread, l + 1])
                T.buffer_store(self.buffers[name], total[0], [block.s, block.g, block.first + thread])
