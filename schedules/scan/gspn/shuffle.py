"""scan.gspn, t2b and b2t: PLACEHOLDER"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tvm import tirx

from treadle.ir import Program
from treadle.schedules.scan import lines, shuffled
from treadle.schedules.scan.lines import Form, applies, legal
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

#: The lanes of a warp wait for each other inside a phase.
SERIAL = False


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(256, (32, 64, 128, 256, 512), "threads of a block: whole warps")
    columns: int = knob(4, (1, 2, 4, 8), "consecutive columns of a thread: 16 bytes a load at 4 (fp32) or 8")
    ahead: int = knob(1, (1, 3), "steps that loads run ahead, in registers")


def default(program: Program, target: Target) -> Knobs:
    return lines.default(program, target, Knobs, widest=8, most=512)


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    def kernels(scan: lines.Scan, buffers: dict[str, tirx.Var]) -> None:
        forms = [
            Form(s.longest, partial(shuffled.emit, scan, buffers, s), partial(shuffled.emit, scan, buffers, s, None))
            for s in lines.shapes(scan, point)
        ]
        lines.by_width(program, scan, buffers, point.columns, forms, point.threads, target)

    return lines.function(program, kernels)
