"""scan.gspn, t2b and b2t: PLACEHOLDER"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from tvm import tirx

from treadle.ir import Program
from treadle.ir.scan import Scan
from treadle.schedules.scan import clustered, lines, registers
from treadle.schedules.scan.lines import Form, applies
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

#: Blocks write into each other's shared memory.
SERIAL = False


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(256, (64, 128, 256, 512), "threads of a block")
    columns: int = knob(4, (1, 2, 4, 8), "consecutive columns of a thread: 16 bytes a load at 4 (fp32) or 8")
    ahead: int = knob(3, (1, 3), "steps that loads run ahead: they cover the cluster's barrier too")
    ctas: int = knob(4, (2, 4, 8), "blocks of a cluster, side by side along a line; 8 is the most that every device grants")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    reasons = lines.legal(program, target, point)
    return reasons + [f"{arch} has no clusters: a block cannot reach the shared memory of another" for arch in target.lacks("cluster")]


def default(program: Program, target: Target) -> Knobs:
    assert program.scan is not None
    point = lines.default(program, target, partial(Knobs, ahead=3), widest=8)
    width = lines.constant(program.scan.width)
    return replace(point, threads=256, ctas=next((c for c in (2, 4) if width and width <= c * 256 * point.columns), 4 if not width else 8))


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    def kernels(scan: Scan, buffers: dict[str, tirx.Var]) -> None:
        shape = registers.Shape(point.threads, 1, point.columns, point.ahead)
        one = partial(registers.emit, scan, buffers, shape)
        many = partial(clustered.emit, scan, buffers, shape, ctas=point.ctas)
        forms = [
            Form(shape.longest, one, partial(one, None)),
            Form(point.ctas * shape.longest, many, partial(many, None)),
        ]
        lines.by_width(program, scan, buffers, point.columns, forms, point.threads, target)

    return lines.function(program, kernels)
