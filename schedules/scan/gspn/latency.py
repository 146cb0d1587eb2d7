"""scan.gspn, t2b and b2t: PLACEHOLDER"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tvm import tirx

from treadle.ir import Program
from treadle.ir.scan import Scan
from treadle.schedules.scan import lines, registers, shuffled
from treadle.schedules.scan.lines import Form, applies
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

#: The lanes of a warp wait for each other inside a phase.
SERIAL = False


@dataclass(frozen=True)
class Knobs:
    lines: int = knob(1, (1, 2, 4), "warps of a block, each with a line of its own: one spreads few lines over most multiprocessors")
    columns: int = knob(2, (1, 2, 4), "consecutive columns of a thread: a line of up to 32, 64 or 128")
    ahead: int = knob(7, (3, 7), "steps that loads run ahead, in registers: the first load's latency is waited for once")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return lines.legal(program, target, lines.Plain(shuffled.WARP * point.lines, point.columns, point.ahead))


def default(program: Program, target: Target) -> Knobs:
    assert program.scan is not None
    width = lines.constant(program.scan.width)
    fitting = [c for c in (1, 2, 4) if width is not None and width <= shuffled.WARP * c]
    point = Knobs(columns=fitting[0]) if fitting else Knobs()
    return point if not legal(program, target, point) else Knobs(columns=point.columns, ahead=3)


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    long = lines.Plain(256, 4, 1)

    def kernels(scan: Scan, buffers: dict[str, tirx.Var]) -> None:
        shape = registers.Shape(shuffled.WARP, point.lines, point.columns, point.ahead)
        emit = partial(shuffled.emit, scan, buffers, shape)
        short = Form(shape.longest, emit, partial(emit, None))
        wide = registers.Shape(long.threads, 1, point.columns, long.ahead)
        beyond = partial(registers.emit, scan, buffers, wide)
        forms = [short, Form(wide.longest, beyond, partial(beyond, None))]
        lines.by_width(program, scan, buffers, point.columns, forms, long.threads, target)

    return lines.function(program, kernels)
