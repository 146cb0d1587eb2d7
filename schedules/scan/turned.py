"""Lines across the contiguous axis, for any scan: the kernels of a function, and which sizes each of them gets.

H <= threads * rows    a block per line, tiles of it turned round in shared memory
H <= 1024              the same with 512 threads of two rows and tiles as deep as then fit, loaded without running ahead
beyond                 a block per line, striding over it: right, but each access fetches a sector of its own
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from tvm import tirx

from treadle.ir import Program
from treadle.ir.dims import constant
from treadle.ir.expr import Expr
from treadle.ir.scan import Scan
from treadle.schedules.emit import Function
from treadle.schedules.scan import channels, lines, step, strided, tiles
from treadle.schedules.scan import kernel as k
from treadle.schedules.target import Target


class Point(Protocol):
    threads: int
    rows: int
    steps: int
    ahead: bool


P = TypeVar("P", bound=Point)


def applies(program: Program) -> bool:
    """Whether the walk of a scan is along the contiguous axis."""
    scan = program.scan
    return scan is not None and step.contiguous(scan, scan.axis, *scan.outputs)


def shape(point: Point) -> tiles.Shape:
    return tiles.Shape(point.threads, point.rows, point.steps, point.ahead)


def shapes(scan: Scan, target: Target, point: Point) -> list[tiles.Shape]:
    """The tiled kernels, for short lines first."""
    found, steps = [shape(point)], point.steps
    tall = tiles.Shape(512, 2, steps, False)
    while steps > 4 and tiles.shared_bytes(scan, tall) > min(g.shared_bytes for g in target.gpus):
        steps //= 2
        tall = tiles.Shape(512, 2, steps, False)
    fits = tiles.shared_bytes(scan, tall) <= min(g.shared_bytes for g in target.gpus)
    return [*found, tall] if fits and found[0].longest < tall.longest else found


def budget(scan: Scan, point: Point) -> lines.Budget:
    held = len(tiles.places(scan)[0]) * point.rows * point.steps if point.ahead else point.rows * point.steps
    return lines.Budget(held + 8 * len(scan.outputs) + 40, tiles.shared_bytes(scan, shape(point)))


def legal(program: Program, target: Target, point: Point) -> list[str]:
    scan = program.scan
    assert scan is not None
    reasons = [*step.refusals(scan), *tiles.refusals(scan), *channels.refusals(scan)]
    if reasons:
        return reasons
    need = budget(scan, point)
    reasons += lines.fits(target, need.registers, point.threads)
    for gpu in target.gpus:
        if need.shared > gpu.shared_bytes:
            reasons.append(
                f"tiles of {point.threads * point.rows} rows take {need.shared} bytes; a block of {gpu.arch} has {gpu.shared_bytes}"
            )
    known = constant(scan.width)
    if known is not None and known > max(s.longest for s in shapes(scan, target, point)):
        reasons += strided.refusals(scan, target)
    return reasons


def default(program: Program, target: Target, knobs: Callable[..., P], ahead: bool) -> P:
    """32 bytes of a row a tile; a thread for each row of a line whose length is known, 256 otherwise."""
    assert program.scan is not None
    steps = 32 // k.itemsize(program.dtype)
    height = constant(program.scan.width)
    for threads in (64, 128, 256) if height is not None else (256,):
        if height is None or height <= threads:
            return knobs(threads=threads, steps=steps, ahead=ahead)
    return knobs(threads=256, steps=steps, ahead=ahead)


def schedule(program: Program, target: Target, point: Point) -> tirx.PrimFunc:
    assert program.scan is not None
    function = Function(program)
    with function as buffers:
        lines.whole(program, program.scan, buffers, lambda scan, seen: _kernels(program, target, scan, seen, point))
    return function.primfunc


def _kernels(program: Program, target: Target, scan: Scan, buffers: dict[str, tirx.Var], point: Point) -> None:
    cases: list[tuple[Expr, Callable[[], None]]] = []
    longer: Expr = tirx.const(True, "bool")
    for form in shapes(scan, target, point):
        divides = k.multiple(scan.steps, tiles.columns(scan, form))
        here = tirx.all(longer, scan.width <= form.longest)
        cases.append((tirx.all(divides, here), lambda s=form: tiles.emit(scan, buffers, s, True)))
        cases.append((tirx.all(tirx.Not(divides), here), lambda s=form: tiles.emit(scan, buffers, s, False)))
        longer = scan.width > form.longest
    cases.append((longer, lambda: strided.emit(scan, buffers, point.threads, target)))
    k.choose(program, cases)
