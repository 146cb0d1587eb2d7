"""Lines across the contiguous axis, for a forward or an adjoint scan: which kernels there are and who gets which size."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from treadle.ir import Program
from treadle.schedules.cpu import scan_common as common
from treadle.schedules.emit import Function
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan import strided, tiles
from treadle.schedules.space import knob
from treadle.schedules.target import Target


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(256, (64, 128, 256, 512, 1024), "threads")
    rows: int = knob(1, (1, 2, 4), "rows of a thread")
    steps: int = knob(8, (4, 8, 16, 32), "steps of a tile")
    ahead: bool = knob(True, (False, True), "load ahead")


def applies(program: Program) -> bool:
    scan = program.scan
    return scan is not None and all(common.runs_along(o.index, len(scan.sizes), scan.axis) for o in scan.outputs)


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return tiles.refusals(program.scan)


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    function = Function(program)
    scan = program.scan
    with function as buffers:
        emit(scan, buffers, point)
    return function.primfunc


def emit(scan, buffers, point):
    shape = tiles.Shape(point.threads, point.rows, point.steps, point.ahead)
    n = tiles.columns(scan, shape)
    for fits, pieces in k.widths(scan.steps, n):
        with k.when(k.both(fits, scan.width <= shape.longest)):
            tiles.emit(scan, buffers, shape, pieces is not None)
    with k.when(scan.width > shape.longest):
        strided.emit(scan, buffers, point.threads)
