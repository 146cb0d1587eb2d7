"""Steps that the hand-written loop nests share: parallel loops, vectors as values, transposition in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.dims import constant
from treadle.ir.expr import Expr


def parallel_where(pays: Expr, extent: Expr, body: Callable[[Expr], None]) -> None:
    """A loop over all cores where that pays, else on the calling thread; decided at compile time if sizes are known."""
    if (known := constant(pays)) is not None:
        with (T.parallel if known else T.serial)(0, extent) as i:
            body(i)
        return
    with T.If(pays):
        with T.Then(), T.parallel(0, extent) as i:
            body(i)
        with T.Else(), T.serial(0, extent) as i:
            body(i)


def get(buffer: tirx.Var, start: Expr | int, lanes: int) -> Expr:
    return buffer[_ramp(start, lanes)]


def put(buffer: tirx.Var, start: Expr | int, lanes: int, value: Expr) -> None:
    T.buffer_store(buffer, value, [_ramp(start, lanes)])


def _ramp(start: Expr | int, lanes: int) -> Expr:
    return T.ramp(tirx.const(start, "int64") if isinstance(start, int) else start, 1, lanes)


def vector(lanes: int, dtype: str, element: Callable[[Expr], Expr]) -> Expr:
    """The vector of `element(0)`, `element(1)`, ..., as a value that may be used more than once."""
    held = T.alloc_buffer((lanes,), dtype, scope="local")
    with T.vectorized(0, lanes) as lane:
        T.buffer_store(held, element(lane), [lane])
    return T.bind(get(held, 0, lanes))


def transposed(vectors: Sequence[Expr], lanes: int) -> list[Expr]:
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
