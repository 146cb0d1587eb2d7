"""The register tile of a contraction: the loop that all the others exist for."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.schedules.cpu.loops import get, put
from treadle.schedules.cpu.operands import ceildiv
from treadle.schedules.target import Cpu

#: Steps that a sum stays in registers. Moving it takes a quarter of the time at 16 steps (K = 768, AMD EPYC Zen 4, 2026-11-24),
#: and chains of 64 passed the error bound in 13 of 2516 random layers, where the worst of 32 reached 0.84 of it.
CHAIN = 32


def refusals(cpu: Cpu, mr: int, nr: int, rows: str = "rows") -> list[str]:
    """Why a tile of `mr` rows of `nr` vectors cannot stay in registers, with the vectors of one column and a broadcast."""
    used = mr * nr + nr + 1
    if used <= cpu.registers:
        return []
    return [
        f"a tile of {mr} {rows} of {nr} vectors needs {used} vector registers with its operands; "
        f"{cpu.level} has {cpu.registers}"
    ]


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
    row after row; where `first` holds the tile is written anew. Sums stay short: chains in registers make a block, blocks
    make the whole. One chain of 64 is already over twice as wrong as torch's dot product, one of 4304 ten times.
    """
    # One buffer per row, indexed by constants alone, so that LLVM keeps them all in registers.
    tile = [T.alloc_buffer((vectors * lanes,), "float32", scope="local") for _ in range(rows)]
    block = T.alloc_buffer((rows * vectors * lanes,), "float32", scope="local")
    buffer, start = sums
    each = [(i, v * lanes) for i in range(rows) for v in range(vectors)]

    def chain(begin: Expr, length: Expr) -> None:
        for i, v in each:
            put(tile[i], v, lanes, T.broadcast(tirx.const(0.0, "float32"), lanes))
        with T.serial(0, length) as k:
            source, at = column(begin + k)
            loaded = [T.bind(get(source, at + v * lanes, lanes)) for v in range(vectors)]
            for i in range(rows):
                scalar = T.bind(T.broadcast(row(i, begin + k), lanes))
                for v in range(vectors):
                    put(tile[i], v * lanes, lanes, get(tile[i], v * lanes, lanes) + scalar * loaded[v])

    def move(into: tirx.Var, at: Expr, value: Callable[[int, int], Expr], anew: Expr) -> None:
        """Write a tile of values, or add it to what is there."""
        places = [(i, v, at + (i * vectors * lanes + v)) for i, v in each]
        with T.If(anew):
            with T.Then():
                for i, v, place in places:
                    put(into, place, lanes, value(i, v))
            with T.Else():
                for i, v, place in places:
                    put(into, place, lanes, get(into, place, lanes) + value(i, v))

    zero = tirx.const(0, "int64")
    with T.serial(0, ceildiv(steps, CHAIN)) as c:
        begin = T.bind(c * CHAIN)
        chain(begin, tirx.min(CHAIN, steps - begin))
        move(block, zero, lambda i, v: get(tile[i], v, lanes), c == 0)
    move(buffer, start, lambda i, v: get(block, zero + (i * vectors * lanes + v), lanes), first)
