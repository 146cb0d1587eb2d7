"""The register tile of a contraction, and the register transposition that packs a side whose memory runs along the reduction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.dims import constant
from treadle.ir.expr import Expr


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


def get(buffer: tirx.Var, start: Expr | int, lanes: int) -> Expr:
    return buffer[_ramp(start, lanes)]


def put(buffer: tirx.Var, start: Expr | int, lanes: int, value: Expr) -> None:
    T.buffer_store(buffer, value, [_ramp(start, lanes)])


def _ramp(start: Expr | int, lanes: int) -> Expr:
    return T.ramp(tirx.const(start, "int64") if isinstance(start, int) else start, 1, lanes)


def transpose(vectors: Sequence[Expr], lanes: int) -> list[Expr]:
    """`lanes` vectors, transposed by two-operand shuffles that are one x86 instruction each.

    Rows are interleaved inside 128-bit quarters (unpcklps, unpcklpd), then whole quarters are exchanged (vperm2f128).
    """
    rows = list(vectors)
    columns: list[list[Expr]] = []
    for g in range(0, lanes, 4):
        a, b, c, d = rows[g : g + 4]
        pairs = [(_interleave(a, b, lanes, 1, h), _interleave(c, d, lanes, 1, h)) for h in (0, 1)]
        columns.append([_interleave(p, q, lanes, 2, h) for p, q in pairs for h in (0, 1)])
    groups = lanes // 4
    out: list[Expr] = [columns[0][0]] * lanes
    for c in range(4):
        block = [columns[g][c] for g in range(groups)]
        distance = 1
        while distance < groups:
            for g in range(groups):
                if not g & distance:
                    a, b = block[g], block[g + distance]
                    block[g], block[g + distance] = (_exchange(a, b, lanes, distance, h) for h in (0, 1))
            distance *= 2
        for g in range(groups):
            out[4 * g + c] = block[g]
    return out


def _interleave(a: Expr, b: Expr, lanes: int, unit: int, half: int) -> Expr:
    """unpack{lo,hi} of `unit` lanes: inside each quarter, the half's units of a and b by turns."""
    indices = []
    for quarter in range(0, lanes, 4):
        units = range(quarter + 2 * half, quarter + 2 * half + 2, unit)
        indices += [source + u + i for u in units for source in (0, lanes) for i in range(unit)]
    return _shuffle(a, b, indices)


def _exchange(a: Expr, b: Expr, lanes: int, distance: int, half: int) -> Expr:
    """One step of the transposition of quarters: those of the half's side, a's before b's."""
    indices = []
    for q in range(lanes // 4):
        source, quarter = (lanes, q ^ distance) if q & distance else (0, q)
        quarter = quarter | distance if half else quarter & ~distance
        indices += [source + 4 * quarter + i for i in range(4)]
    return _shuffle(a, b, indices)


def _shuffle(a: Expr, b: Expr, indices: Sequence[int]) -> Expr:
    return T.bind(tirx.Shuffle([a, b], [tirx.const(i, "int32") for i in indices]))
