"""A warp to a line, shuffles between neighbours, and a ring in shared memory deep enough for a whole small map.

Nothing here waits for another warp. The ring is the warp's own, each thread reads what it copied: no barrier of any kind. A
slot is read, its values used in the carry, and only then copied to again, one step later, by the same thread.
"""

from __future__ import annotations

from treadle.ir.expr import Expr
from treadle.ir.scan import Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan import shuffled, staged
from treadle.schedules.scan.registers import Buffers, Shape


class Line(shuffled.Line, staged.Line):
    """Neighbours as in the one, values as in the other."""


def emit(scan: Scan, buffers: Buffers, shape: Shape, pieces: Expr) -> None:
    with k.grid(scan, shape.lanes) as block:
        Line(scan, buffers, shape, pieces, block, True).emit()
