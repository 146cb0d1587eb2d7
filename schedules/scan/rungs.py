"""Which rung of the ladder is the default for the sizes that are known, by what is predicted of each."""

from __future__ import annotations

from treadle.ir import Program
from treadle.ir.dims import constant
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.lines import applies

#: Columns that a warp holds; threads of the longest block, by single columns and by pieces; channels that share a thread.
WARP, SINGLE, PIECES, TOGETHER = 128, 1024, 512, 4


def first(program: Program) -> str:
    """Lines across the contiguous axis have `tile`, whatever the sizes; of unknown width, `staged` has a kernel for any."""
    scan = program.scan
    assert scan is not None
    if not applies(program):
        return "tile"
    width = constant(scan.width)
    if width is None:
        return "staged"
    if width <= WARP:
        return "latency"
    item = k.itemsize(program.dtype)
    if width % (4 // item):  # no piece that cp.async could move
        return "line" if width <= SINGLE else "cluster"
    piece = next(c for c in (8, 4, 2, 1) if c * item <= k.VECTOR and width % c == 0)
    if width > PIECES * piece:
        return "cluster"
    inner = k.independent(scan)[1]
    channels, gates = constant(scan.sizes[inner]), {constant(r.tensor.shape[d]) for r in scan.reads.values() for a, d in r.shared}
    return "together" if gates == {1} and channels is not None and channels > 1 and channels % TOGETHER == 0 else "staged"
