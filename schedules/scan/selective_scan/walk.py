"""A walk: a thread has a few states of one channel in registers and goes through time, tile by tile. Moves:

1. *states in registers*: a warp has `states` states of each of 32 channels; nothing crosses threads but the sum over states.
2. *tiles of rows in shared memory*: time is contiguous in memory, and neighbouring threads read along it; a walk reads the
   rows of 32 channels side by side, B and C as broadcasts.
3. *the sum over states in two levels*: a thread adds up its own, what warps have is added up when the tile is stored.
4. *exponentials on two pipes*: of every eight, `moved` by a polynomial of degree 5 on the FMA pipes, the rest by `ex2`.

Floor: u, delta, z read, y written once; 16 exponentials a step and channel at N = 16, of which the special function units
make 16 a cycle. See docs/kernels/selective_scan.md for what moving some of them buys on paper. Never run on a GPU.
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
from treadle.schedules.selective_family import NAMES, Family
from treadle.schedules.space import knob
from treadle.schedules.target import Target

SERIAL = True


@dataclass(frozen=True)
class Knobs:
    states: int = knob(4, (4, 8, 16), "states of a thread: fewer make more warps, more share what a step reads")
    tile: int = knob(32, (8, 16, 32), "steps of a tile: what it holds is shared memory")
    moved: int = knob(0, (0, 1, 2, 4), "exponentials of every eight that the FMA pipes make")


def applies(program: Program) -> bool:
    return program.name == NAMES[0]


def _warps(program: Program, point: Knobs) -> int:
    return -(-int(program.attrs["state"]) // point.states)


def _shared(program: Program, point: Knobs) -> int:
    warps = _warps(program, point)
    return 4 * point.tile * (2 * (WARP + 1) + 2 * (warps * point.states | 1) + warps * (WARP + 1))


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    threads, size = WARP * _warps(program, point), _shared(program, point)
    reasons = []
    if threads > moves.MOST_THREADS // 2:
        reasons.append(f"{point.states} states a thread take {threads} threads a block, and their registers are too few")
    if size > moves.STATIC_SHARED:
        reasons.append(f"a tile of {point.tile} steps takes {size} bytes of shared memory, over {moves.STATIC_SHARED}")
    return reasons


def default(program: Program, target: Target) -> Knobs:
    points = (Knobs(states, tile) for states in (4, 8, 16) for tile in (32, 16, 8))
    return next(p for p in points if not legal(program, target, p))


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    family = Family.of(program)
    s, g, r, _ = family.sizes
    function = Function(program)
    with function as buffers:
        count = s * g * tirx.ceildiv(r, moves.i64(family.part))
        with moves.blocks(count) as block:
            threads = WARP * _warps(program, point)
            _Forward(Block(family, buffers, threads, point.tile, point.moved, block), point.states).emit()
    return function.primfunc


class _Forward:
    def __init__(self, block: Block, states: int) -> None:
        self.block, self.states = block, states
        self.warps = block.threads // WARP
        self.padded = self.warps * states
        tile = block.tile
        self.rows = {name: Tile.of(tile, WARP) for name in ("step", "u")}
        self.wide = {name: Tile.of(tile, self.padded) for name in ("B", "C")}
        self.partial = Tile.of(tile, self.warps, WARP)
        self.h, self.rates = (T.sblock_alloc_buffer((block.threads, states), "float32", scope="local") for _ in range(2))

    def emit(self) -> None:
        block = self.block
        with moves.phase(block.threads) as thread:
            c, k = block.split(thread)
            for i in range(self.states):
                n = (k * self.states + i).astype("int64")
                there = tirx.all(c < block.count, n < block.n)
                begins = block.buffers["initial"][block.s, block.g, block.first + c, n]
                T.buffer_store(self.h, tirx.if_then_else(there, begins, moves.f32(0.0)), [thread, i])
                rate = tirx.if_then_else(n < block.n, block.rate(c, n), moves.f32(0.0))
                T.buffer_store(self.rates, rate, [thread, i])
        with T.serial(0, block.tiles) as tile:
            t = tile * block.tile
            block.stage(("step", "u"), self.rows, t)
            self._stage_wide(t)
            self._walk(t)
            self._store(t)
        with moves.phase(block.threads) as thread:
            c, k = block.split(thread)
            for i in range(self.states):
                n = (k * self.states + i).astype("int64")
                with moves.when(tirx.all(c < block.count, n < block.n)):
                    at = [block.s, block.g, block.first + c, n]
                    T.buffer_store(block.buffers["last"], self.h[thread, i], at)

    def _stage_wide(self, t: Expr) -> None:
        """B and C of the tile, turned round; states that there are not add nothing."""
        block = self.block
        with moves.phase(block.threads) as thread:

            def put(n: Expr, l: Expr) -> None:
                n = n.astype("int64")
                for name, wide in self.wide.items():
                    here = block.buffers[name][block.s, block.g, n, t + l].astype("float32")
                    inside = tirx.all(n < block.n, t + l < block.steps)
                    wide.store((l, n), tirx.if_then_else(inside, here, moves.f32(0.0)))

            block.shared_out(thread, self.padded * block.tile, put)

    def _walk(self, t: Expr) -> None:
        block = self.block
        with moves.phase(block.threads) as thread:
            c, k = block.split(thread)
            with T.serial(0, block.tile // 2) as pair:
                for odd in range(2):
                    l = pair * 2 + odd
                    at = {name: T.bind(rows[l, c]) for name, rows in self.rows.items()}
                    total: Expr = moves.f32(0.0)
                    for i in range(self.states):
                        at |= {name: wide[l, k * self.states + i] for name, wide in self.wide.items()}
                        at["decay"] = T.bind(block.decay(at, self.rates[thread, i], odd * self.states + i))
                        now = T.bind(block.advance(at, self.h[thread, i]))
                        T.buffer_store(self.h, now, [thread, i])
                        total = T.bind(total + block.total(at, now))
                    self.partial.store((l, k, c), total)

    def _store(self, t: Expr) -> None:
        block = self.block
        with moves.phase(block.threads) as thread:

            def put(c: Expr, l: Expr) -> None:
                with moves.when(tirx.all(c < block.count, t + l < block.steps)):
                    total: Expr = self.partial[l, 0, c]
                    for k in range(1, self.warps):
                        total = total + self.partial[l, k, c]
                    at = [block.s, block.g, block.first + c, t + l]
                    for result, stage in block.family.stored.values():
                        here = block.made(stage, at, lambda name: total if name == "total" else None)
                        T.buffer_store(block.buffers[result.op.name], here.astype(str(result.dtype)), at)

            block.elements(thread, put)
