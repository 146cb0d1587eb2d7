"""Lines in scratch memory: padded rows of float32, and loops along them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.schedules.cpu.scan_common import PAD, opaque

#: Positions of a line between two prefetches: a cache line of float32.
BLOCK = 16


def pitch_of(width: Size) -> Expr:
    """Floats from one line to the next: margins on both sides, whole cache lines, and never a power of two apart."""
    return tirx.shift_left(tirx.shift_right(width + (3 * PAD - 1), tirx.const(4, "int64")), tirx.const(4, "int64"))


def zero(buffer: tirx.Var, extents: Sequence[Expr | int]) -> None:
    """Set the leading part of a buffer to zero."""
    _zero(buffer, list(extents), [])


def _zero(buffer: tirx.Var, extents: list[Expr | int], at: list[Expr]) -> None:
    with T.serial(0, extents[0]) as i:
        if len(extents) == 1:
            T.buffer_store(buffer, tirx.const(0.0, "float32"), [*at, i])
        else:
            _zero(buffer, extents[1:], [*at, i])


@dataclass(frozen=True)
class Spot:
    """A position of a line, or a vector of them: whether it has neighbours on both sides, and room for scalars made there."""

    position: Expr
    inside: bool
    scratch: list[tirx.Var]
    lane: Expr


def along(
    width: Size,
    lanes: int,
    reverse: bool,
    body: Callable[[Spot], None],
    before: Callable[[Expr], None] = lambda start: None,
    reach: int = 0,
    scalars: int = 0,
) -> None:
    """`body` at every position of a line: in vectors, by blocks, `before` each; then what is left, one by one.

    Where `reach` is given, blocks whose positions have that many neighbours on both sides are emitted apart, `inside`. A walk
    to lower rows takes its blocks backwards too, so that memory is walked in one direction.
    """
    blocks = opaque(tirx.truncdiv(width, tirx.const(BLOCK, "int64")))

    def room(size: int) -> list[tirx.Var]:
        return [T.alloc_buffer((size,), "float32", scope="local") for _ in range(scalars)]

    def block(start: Expr, inside: bool) -> None:
        with T.serial(0, BLOCK // lanes) as v:
            scratch = room(lanes)
            with T.vectorized(0, lanes) as lane:
                body(Spot(start + v * lanes + lane, inside, scratch, lane))

    with T.serial(0, blocks) as b:
        start = opaque((blocks - 1 - b if reverse else b) * BLOCK)
        before(start)
        if not reach:
            block(start, False)
        else:
            with T.If(tirx.all(start >= reach, start + (BLOCK + reach) <= width)):
                with T.Then():
                    block(start, True)
                with T.Else():
                    block(start, False)
    with T.serial(0, width - blocks * BLOCK) as rest:
        body(Spot(blocks * BLOCK + rest, False, room(1), tirx.const(0, "int32")))
