"""scan.gspn, t2b and b2t: PLACEHOLDER"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tvm import tirx

from treadle.ir import Program
from treadle.ir.scan import Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan import lines, registers
from treadle.schedules.scan import staged as ring
from treadle.schedules.scan.lines import Form, applies
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
    reasons = lines.legal(program, target, lines.Plain(point.threads, point.columns, 1))
    if reasons:
        return reasons
    for stream in registers.held(scan):
        kind = str(stream.tensor.dtype)
        if point.columns * k.itemsize(kind) < 4:
            reasons.append(f"{point.columns} columns of {kind} are {point.columns * k.itemsize(kind)} bytes; cp.async moves 4, 8 or 16")
            break
    need = max(ring.shared_bytes(scan, s) for s in lines.shapes(scan, point))
    for gpu in target.gpus:
        if "cp.async" not in gpu.features:
            reasons.append(f"{gpu.arch} has no cp.async")
        if need > gpu.shared_bytes:
            reasons.append(f"a ring of {point.ahead + 1} steps takes {need} bytes; a block of {gpu.arch} has {gpu.shared_bytes}")
    return reasons


def default(program: Program, target: Target) -> Knobs:
    return lines.default(program, target, Knobs, widest=8)


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    def kernels(scan: Scan, buffers: dict[str, tirx.Var]) -> None:
        forms = []
        for shape, plain in zip(lines.shapes(scan, point), lines.shapes(scan, lines.Plain(point.threads, point.columns, 1)), strict=True):

            def copied(pieces: lines.Expr, shape: registers.Shape = shape) -> None:
                ring.emit(scan, buffers, shape, pieces, asynchronous=target.kind != "emulate")

            forms.append(Form(shape.longest, copied, partial(registers.emit, scan, buffers, plain, None)))
        lines.by_width(program, scan, buffers, point.columns, forms, point.threads, target)

    return lines.function(program, kernels)
