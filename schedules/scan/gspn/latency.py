"""Rung 8, scan.gspn, t2b and b2t: small maps. A warp to a line, no barrier, the whole map on its way at once.

Where N * C lines do not fill the device, time is steps times the chain of one step. A chain is one exchange and four dependent
float operations: by barrier 60 ns, by shuffle 25 + 4 x 4 cycles and a read of shared memory beside them, 30 ns at 1.75 GHz.

1. A warp per line of up to 128 columns, lines of several warps side by side in a block only on request.
2. The ring of staged, 32 slots: of a map of 32 rows every load is begun before the first step, and its latency paid once.
3. Blocks of 32 threads: 64 lines run on 64 multiprocessors. 20 KB of shared memory a warp; ten share a multiprocessor.

Floor of a step: 26 ns (shuffle, four float operations, one select). Predicted for H100, not measured:
    1 x 64 x 32^2   30 ns a step, 1 us of walk beside 3.8 us of launch and first load; line 800, staged 267 ns a step
    1 x 64 x 64^2   the same, 1.9 us of walk
l2r has no rung of this kind yet: tile takes 100 ns a step there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tvm import tirx

from treadle.ir import Program
from treadle.ir.dims import constant
from treadle.ir.scan import Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan import lines, registers, shuffled, staged, warps
from treadle.schedules.scan.lines import Form, Plain, applies
from treadle.schedules.scan.shuffled import WARP
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

#: The lanes of a warp wait for each other inside a phase.
SERIAL = False
#: Lines that are not whole pieces, and lines longer than a warp, by the kernels that others are for.
RAGGED_AHEAD, LONG = 3, Plain(256, 4, 1)


@dataclass(frozen=True)
class Knobs:
    lines: int = knob(1, (1, 2, 4), "warps of a block, each with a line of its own: 1 spreads few lines over most multiprocessors")
    columns: int = knob(2, (1, 2, 4), "consecutive columns of a thread: a line of up to 32, 64 or 128")
    ahead: int = knob(31, (7, 15, 31), "steps that copies run ahead: 31 is all of a small map, and its latency is waited for once")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    assert program.scan is not None
    scan, shape = program.scan, _shape(point)
    if reasons := lines.legal(program, target, Plain(WARP * point.lines, point.columns, RAGGED_AHEAD)):
        return reasons
    return staged.refusals(scan, target, shape)


def default(program: Program, target: Target) -> Knobs:
    """The narrowest pieces that a copy moves and a known width fits; the deepest ring that two blocks of have room."""
    assert program.scan is not None
    least = max(1, 4 // k.itemsize(program.dtype))
    width = constant(program.scan.width) or 2 * WARP
    columns = next((c for c in (1, 2, 4) if c >= least and WARP * c >= width and width % c == 0), 4)
    points = [Knobs(columns=columns, ahead=ahead) for ahead in (31, 15, 7)]
    return next(p for p in points if not legal(program, target, p))


def _shape(point: Knobs) -> registers.Shape:
    return registers.Shape(WARP, point.lines, point.columns, point.ahead)


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    def kernels(scan: Scan, buffers: dict[str, tirx.Var]) -> None:
        shape = _shape(point)
        ragged = registers.Shape(WARP, point.lines, point.columns, RAGGED_AHEAD)
        long = partial(registers.emit, scan, buffers, registers.Shape(LONG.threads, 1, point.columns, LONG.ahead))
        forms = [
            Form(shape.longest, partial(warps.emit, scan, buffers, shape), partial(shuffled.emit, scan, buffers, ragged, None)),
            Form(LONG.threads * point.columns, long, partial(long, None)),
        ]
        lines.by_width(program, scan, buffers, point.columns, forms, LONG.threads, target)

    return lines.function(program, kernels)
