"""Rung 4, scan.gspn, t2b and b2t: the carry in registers, neighbours by warp shuffle, a halo in shared memory between warps.

As line (columns in registers, 16-byte loads, the next step's loads begun before the barrier), but an edge goes to the next
lane by shfl, 25 cycles and no store; shared memory holds two floats a warp, 232 bytes a block instead of 4,296. The barrier
stays wherever a line has more than one warp, and with it most of the chain: predicted 55 ns a step against 60. So this is
the same rung by other means; it pays where the barrier goes too (latency).

Predicted for H100, not measured, 16 x 8 x 1024^2: as line. fp32 bus 1.05 ms, 3.07 TB/s; bf16 has 10 KiB in flight: one
step ahead is 0.8 us a step, 0.82 ms against the bus's 0.52: 1.96 TB/s, 58 %. The loads must run further ahead: staged.
"""

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
