"""What both walks of the selective scan share: a block of 32 channels, lanes of a warp side by side in one state of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.schedules import cuda_moves as moves
from treadle.schedules import exp2
from treadle.schedules.selective_family import Family

WARP = 32
#: Of the polynomial that stands in for `ex2.approx`: no less exact than that.
DEGREE = 5


@dataclass(frozen=True)
class Tile:
    """Shared memory of a shape, last dimension padded to an odd pitch: rows and columns are read without bank conflicts.

    One dimension to TVM, which would cut a padded one down to what is accessed.
    """

    shape: tuple[int, ...]
    buffer: tirx.Var

    @staticmethod
    def of(*shape: int) -> Tile:
        padded = (*shape[:-1], shape[-1] | 1)
        return Tile(padded, T.sblock_alloc_buffer((math.prod(padded),), "float32", scope="shared"))

    def _index(self, at: Sequence[Expr | int]) -> Expr:
        index, *rest = at
        for i, size in zip(rest, self.shape[1:], strict=True):
            index = index * size + i
        return index

    def __getitem__(self, at: Sequence[Expr | int]) -> Expr:
        return self.buffer[self._index(at)]

    def store(self, at: Sequence[Expr | int], value: Expr) -> None:
        T.buffer_store(self.buffer, value, [self._index(at)])


class Block:
    """The channels of a part. A thread is lane `c` of warp `k`: it walks channel `c` in the states that are the warp's.

    Shared memory holds rows of a tile as [step][channel]: threads of a warp read side by side, and B and C are the same for
    all of them.
    """

    def __init__(self, family: Family, buffers: dict[str, tirx.Var], threads: int, tile: int, moved: int, block: Expr) -> None:
        self.family, self.buffers, self.threads, self.tile, self.moved = family, buffers, threads, tile, moved
        self.n = family.states
        _, groups, channels, self.steps = family.sizes
        parts = tirx.ceildiv(channels, moves.i64(family.part))
        rest, part = moves.split_block(block, parts)
        s, g = moves.split_block(rest, groups)
        self.s, self.g, self.part = (v.astype("int64") for v in (s, g, part))
        self.first = self.part * family.part
        self.count = tirx.min(channels - self.first, moves.i64(family.part))
        self.tiles = tirx.ceildiv(self.steps, moves.i64(tile))

    def split(self, thread: Expr) -> tuple[Expr, Expr]:
        """Channel of the part, warp."""
        return tirx.truncmod(thread, WARP), tirx.truncdiv(thread, WARP)

    def channel(self, c: Expr) -> Expr:
        """A channel that exists, for lanes that have none."""
        return self.first + tirx.min(c.astype("int64"), self.count - 1)

    # -- rows of a tile -----------------------------------------------------------------------------------------------------
    def elements(self, thread: Expr, body: Callable[[Expr, Expr], None]) -> None:
        """The (channel, step) of a tile that are a thread's, neighbouring threads along time as memory is."""
        self.shared_out(thread, WARP * self.tile, body)

    def shared_out(self, thread: Expr, count: int, body: Callable[[Expr, Expr], None]) -> None:
        """`count` places of so many rows of a tile of steps, one thread after another."""
        with T.serial(0, -(-count // self.threads)) as j:
            e = j * self.threads + thread
            with moves.when(e < count if count % self.threads else True):
                body(tirx.truncdiv(e, self.tile), tirx.truncmod(e, self.tile))

    def stage(self, names: Sequence[str], into: dict[str, Tile], t: Expr) -> None:
        """Rows to shared memory; 0 where there is no channel or no step, which then changes no state and no sum."""
        with moves.phase(self.threads) as thread:

            def put(c: Expr, l: Expr) -> None:
                inside = tirx.all(c < self.count, t + l < self.steps)
                at = [self.s, self.g, self.first + c, t + l]
                for name in names:
                    here = self.row(name, at)
                    into[name].store((l, c), tirx.if_then_else(inside, here, moves.f32(0.0)))

            self.elements(thread, put)

    def row(self, name: str, at: Sequence[Expr], known: Callable[[str], Expr | None] = lambda name: None) -> Expr:
        """An argument by row, or a stage worked out."""
        if name == "u":
            return self.buffers["u"][*at].astype("float32")
        return self.made(self.family.rows[name], at, known)

    def made(self, stage: te.Tensor, at: Sequence[Expr], known: Callable[[str], Expr | None] = lambda name: None) -> Expr:
        def load(tensor: te.Tensor, index: Sequence[Expr]) -> Expr | None:
            found = known(tensor.op.name)
            if found is not None or not isinstance(tensor.op, te.PlaceholderOp):
                return found
            return self.buffers[tensor.op.name][*index]

        return self.family.by_row(stage, at, load)

    # -- one state's step ---------------------------------------------------------------------------------------------------
    def rate(self, c: Expr, n: Expr) -> Expr:
        return self.buffers["A"][self.g, self.channel(c), n] * moves.f32(exp2.LOG2_E)

    def decay(self, at: dict[str, Expr], rate: Expr, number: int) -> Expr:
        """2^(rate step): the `moved` first of every eight, counted by `number`, on the FMA pipes, the others by `ex2`."""
        t = self.family.bound(self.family.scan, self.family.rate, at) * rate
        if number % 8 < self.moved:
            return exp2.power(t, DEGREE)
        return tirx.exp2(t)

    def advance(self, at: dict[str, Expr], past: Expr) -> Expr:
        return self.family.bound(self.family.scan, self.family.scan.source, at) + at["decay"] * past

    def total(self, at: dict[str, Expr], now: Expr) -> Expr:
        (value,) = (o.value for o in self.family.scan.outputs if o.tensor.op.name == "total")
        return self.family.bound(self.family.scan, value, at, now)
