"""Rung 5, scan.gspn, t2b and b2t: several channels in a thread, for which shared gates (G = 1) are loaded once.

Memory has nothing to save: channels that run together find the gates in L2. L2 has: every channel asks it for six tensors,
though the bus carries only 3 + 3/C, so at 3 TB/s of bus L2 would have to give 6, more than its 5.5. With four channels a
thread it gives 3.75 tensors for 3. One barrier serves four channels, and 44 KiB are in flight from one block.

1. G = 1 and C a multiple of the channels of a thread, said by the host; otherwise the kernels of line.
2. A stream that channels share (Read.shared) has one set of registers, all others one a channel: 142 in fp32, no spills.

Predicted for H100, not measured, 1 x 1152 x 1024^2, G = 1 (floor 3 tensors, 14.5 GB fp32):
    line, staged   L2: 29 GB at 5.5 TB/s, 5.3 ms, 2.75 TB/s of compulsory bytes
    together       L2: 18 GB, 3.3 ms; bus 4.7 ms, 3.08 TB/s, 92 %
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from tvm import tirx

from treadle.ir import Program
from treadle.ir.scan import Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan import lines, registers
from treadle.schedules.scan.lines import Form, applies
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

#: Phases are loops of their own and barriers stand between them: the emulation is valid.
SERIAL = True


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(256, (32, 64, 128, 256, 512), "threads of a block")
    columns: int = knob(4, (1, 2, 4, 8), "consecutive columns of a thread: 16 bytes a load at 4 (fp32) or 8")
    ahead: int = knob(1, (1,), "steps that loads run ahead: registers are spent on channels")
    each: int = knob(4, (2, 4, 8), "channels of a thread: gates are loaded once for all of them, one barrier serves all")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    assert program.scan is not None
    if reasons := lines.legal(program, target, point):
        return reasons
    scan, columns = program.scan, point.columns
    shared = sum(1 for s in registers.held(scan) if shared_by(scan, s.read))
    own = len(registers.held(scan)) - shared + len(scan.outputs)
    need = ((shared + own * point.each) * (point.ahead + 1) + 2 * point.each) * columns + 40
    edges = max(registers.shared_bytes(scan, s) for s in lines.shapes(scan, point)) * point.each
    reasons = lines.fits(target, need, point.threads)
    if edges > lines.STATIC_SHARED:
        reasons.append(f"edges of {point.each} channels take {edges} bytes of static shared memory; a block has {lines.STATIC_SHARED}")
    return reasons


def shared_by(scan: Scan, read: registers.Read) -> bool:
    return k.independent(scan)[1] in {a for a, _ in read.shared}


def default(program: Program, target: Target) -> Knobs:
    point = lines.default(program, target, Knobs, widest=4, most=512)
    return replace(point, each=2) if legal(program, target, point) else point


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    def forms(scan: Scan, buffers: dict[str, tirx.Var], each: int) -> list[Form]:
        shapes = [replace(s, each=each) for s in lines.shapes(scan, point)]
        emit = registers.emit
        return [Form(s.longest, partial(emit, scan, buffers, s), partial(emit, scan, buffers, s, None)) for s in shapes]

    def kernels(scan: Scan, buffers: dict[str, tirx.Var]) -> None:
        inner = k.independent(scan)[1]
        sizes = [r.tensor.shape[d] for r in scan.reads.values() for a, d in r.shared if a == inner]
        whole = k.both(k.multiple(scan.sizes[inner], point.each), *(size == 1 for size in sizes[:1]))

        def emit(each: int) -> None:
            lines.by_width(program, scan, buffers, point.columns, forms(scan, buffers, each), point.threads, target)

        k.choose(program, [(whole, lambda: emit(point.each)), (tirx.Not(whole), lambda: emit(1))])

    return lines.function(program, kernels)
