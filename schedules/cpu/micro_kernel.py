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
    row after row; where `first` holds the tile starts at zero.
    """
    # One buffer per row, indexed by constants alone, so that LLVM keeps them all in registers.
    tile = [T.alloc_buffer((vectors * lanes,), "float32", scope="local") for _ in range(rows)]
    buffer, start = sums
    each = [(i, v * lanes) for i in range(rows) for v in range(vectors)]

    def begin(value: Callable[[int, int], Expr]) -> None:
        for i, v in each:
            put(tile[i], v, lanes, value(i, v))

    def zero() -> None:
        begin(lambda i, v: T.broadcast(tirx.const(0.0, "float32"), lanes))

    if constant(first) == 1:
        zero()
    else:
        with T.If(first):
            with T.Then():
                zero()
            with T.Else():
                begin(lambda i, v: get(buffer, start + i * vectors * lanes + v, lanes))
    with T.serial(0, steps) as k:
        source, at = column(k)
        loaded = [T.bind(get(source, at + v * lanes, lanes)) for v in range(vectors)]
        for i in range(rows):
            scalar = T.bind(T.broadcast(row(i, k), lanes))
            for v in range(vectors):
                put(tile[i], v * lanes, lanes, get(tile[i], v * lanes, lanes) + scalar * loaded[v])
    for i, v in each:
        put(buffer, start + i * vectors * lanes + v, lanes, get(tile[i], v, lanes))
