"""Lines along the contiguous axis, for a forward or an adjoint scan: which kernels there are and who gets which size."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir.dims import constant
from treadle.ir.expr import Expr
from treadle.ir.scan import Scan
from treadle.schedules.cpu import scan_common as common
from treadle.schedules.emit import Function
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan import registers, strided
from treadle.schedules.space import knob
from treadle.schedules.target import Target

@dataclass(frozen=True)
class Knobs:
    threads: int = knob(256, (32, 64, 128, 256, 512, 1024), "threads of a block; on a long line all of them")
    columns: int = knob(4, (1, 2, 4, 8), "consecutive columns of a thread")
    ahead: int = knob(1, (1, 3), "steps that loads run ahead")


def applies(program: Program) -> bool:
    scan = program.scan
    return scan is not None and all(common.runs_along(o.index, len(scan.sizes), scan.line) for o in scan.outputs)


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return registers.refusals(program.scan)


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    function = Function(program)
    scan = program.scan
    with function as buffers:
        emit(scan, buffers, point)
    return function.primfunc


def emit(scan, buffers, point):
    short = registers.Shape(32, point.threads // 32, point.columns, point.ahead)
    long = registers.Shape(point.threads, 1, point.columns, point.ahead)
    for fits, pieces in k.widths(scan.width, point.columns):
        with k.when(k.both(fits, scan.width <= short.longest)):
            registers.emit(scan, buffers, short, pieces)
        if long.threads > 32:
            with k.when(k.both(fits, scan.width > short.longest, scan.width <= long.longest)):
                registers.emit(scan, buffers, long, pieces)
    with k.when(scan.width > long.longest):
        strided.emit(scan, buffers, point.threads)
