"""The register tile of a contraction: the loop that all the others exist for."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.dims import constant
from treadle.ir.expr import Expr
from treadle.schedules.cpu.loops import get, put


def multiply(
    rows: int,
    vectors: int,
    lanes: int,
    steps: Expr,
    row: Callable[[int, Expr], Expr],
    column: Callable[[Expr], tuple[tirx.Var, Expr]],
    sums: tuple[tirx.Var, Expr],
    first: Expr,
) -> None:
    """Add the products of a block of the reduction to a tile of sums: loads, broadcasts and fused multiply-adds only.

    `row(i, step)` is the scalar of row i, `column(step)` says where the row of vectors lies, `sums` where the tile lies,
    row after row; where `first` holds the tile is written anew. A block is always summed from zero: a sum of short sums
    loses fewer digits than one long one, which at a depth of 4304 is ten times as wrong.
    """
    # One buffer per row, indexed by constants alone, so that LLVM keeps them all in registers.
    tile = [T.alloc_buffer((vectors * lanes,), "float32", scope="local") for _ in range(rows)]
    buffer, start = sums
    each = [(i, v * lanes) for i in range(rows) for v in range(vectors)]
    for i, v in each:
        put(tile[i], v, lanes, T.broadcast(tirx.const(0.0, "float32"), lanes))
    with T.serial(0, steps) as k:
        source, at = column(k)
        loaded = [T.bind(get(source, at + v * lanes, lanes)) for v in range(vectors)]
        for i in range(rows):
            scalar = T.bind(T.broadcast(row(i, k), lanes))
            for v in range(vectors):
                put(tile[i], v * lanes, lanes, get(tile[i], v * lanes, lanes) + scalar * loaded[v])

    def store() -> None:
        for i, v in each:
            put(buffer, start + i * vectors * lanes + v, lanes, get(tile[i], v, lanes))

    def add() -> None:
        for i, v in each:
            at = start + i * vectors * lanes + v
            put(buffer, at, lanes, get(buffer, at, lanes) + get(tile[i], v, lanes))

    if constant(first) == 1:
        store()
        return
    with T.If(first):
        with T.Then():
            store()
        with T.Else():
            add()
