"""Rung 6, scan.gspn, t2b and b2t: a ring of steps in shared memory, filled by cp.async three steps ahead.

Little's law: 3.35 TB/s over 0.8 us are 2.7 MB under way, 20 KiB on each of 132 multiprocessors, before any queueing. line has
20 KiB (256 threads, five tensors, 16 bytes, one step), so that every hiccup shows, and in bf16, where a plane of 1024 has half
the threads' work, one block cannot hide its own latency at all. Three steps ahead are 60 KiB from one block, 30 in bf16.

1. A ring of four slots, 84 KB a block; copies cost no registers: 40 in fp32 where line has 72.
2. Each thread copies what it will read: cp.async.wait_group, and no barrier but the step's, which also guards the slots.
3. Neighbours as in line. Lines that are not whole pieces of 16 bytes: line's own kernels.

cp.async and not the bulk engine: copies are as wide as a thread's columns, so no address is computed twice and no mbarrier is
waited for; sm_80 has it too.

Predicted for H100, not measured, 16 x 8 x 1024^2: fp32 1.05 ms, bf16 0.53 ms, 3.06 TB/s, 91 % of the peak: the bus.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tvm import tirx

from treadle.ir import Program
from treadle.ir.scan import Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan import lines, registers
from treadle.schedules.scan import staged as ring
from treadle.schedules.scan.lines import Form, Plain, applies
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

#: Emulated, a copy is made where it is begun, and phases are loops of their own.
SERIAL = True


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(256, (32, 64, 128, 256, 512), "threads of a block: more cover longer lines, fewer wait less")
    columns: int = knob(4, (1, 2, 4, 8), "consecutive columns of a thread: a copy of 16 bytes at 4 (fp32) or 8")
    ahead: int = knob(3, (1, 3, 7), "steps that copies run ahead: one less than the slots of the ring, which are 2, 4 or 8")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    assert program.scan is not None
    scan = program.scan
    reasons = lines.legal(program, target, Plain(point.threads, point.columns, 1))
    return reasons or ring.refusals(scan, target, *lines.shapes(scan, point))


def default(program: Program, target: Target) -> Knobs:
    return lines.default(program, target, Knobs, widest=8, most=512, least=4 // k.itemsize(program.dtype))


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    plain, asynchronous = Plain(point.threads, point.columns, 1), target.kind != "emulate"

    def kernels(scan: Scan, buffers: dict[str, tirx.Var]) -> None:
        forms = [
            Form(
                shape.longest,
                partial(ring.emit, scan, buffers, shape, asynchronous=asynchronous),
                partial(registers.emit, scan, buffers, ragged, None),
            )
            for shape, ragged in zip(lines.shapes(scan, point), lines.shapes(scan, plain), strict=True)
        ]
        lines.by_width(program, scan, buffers, point.columns, forms, point.threads, target)

    return lines.function(program, kernels)
