"""Lines along the contiguous axis, for any scan: the kernels of a function, and which sizes each of them gets.

W <= 32 V             a warp's width per line, several lines (channels) side by side in a block
W <= threads * V      a block per line
beyond                a block per line, striding over it, the line in shared memory
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from tvm import tirx

from treadle.ir import Program
from treadle.ir.dims import constant
from treadle.ir.expr import Expr
from treadle.ir.scan import Scan
from treadle.schedules.emit import Function
from treadle.schedules.scan import channels, registers, step, strided
from treadle.schedules.scan import kernel as k
from treadle.schedules.target import Target

#: most registers of a thread; static shared memory of a block, bytes
REGISTERS = 255
STATIC_SHARED = 48 << 10


class Point(Protocol):
    threads: int
    columns: int
    ahead: int


P = TypeVar("P", bound=Point)


@dataclass(frozen=True)
class Plain:
    """A Point of the plain line."""

    threads: int
    columns: int
    ahead: int


@dataclass(frozen=True)
class Budget:
    """What a kernel is expected to take: registers of a thread (never less than the compiler reports), shared bytes."""

    registers: int
    shared: int


def applies(program: Program) -> bool:
    """Whether the lines of a scan lie along the contiguous axis."""
    scan = program.scan
    return scan is not None and step.contiguous(scan, scan.line, *scan.outputs)


def shapes(scan: Scan, point: Point) -> list[registers.Shape]:
    """The register kernels, short lines first. A width known beforehand gets no more threads than it has columns for."""
    across, width = min(32, point.threads), constant(scan.width)
    while width is not None and across > 4 and across // 2 * point.columns >= width:
        across //= 2
    short = registers.Shape(across, point.threads // across, point.columns, point.ahead)
    long = registers.Shape(point.threads, 1, point.columns, point.ahead)
    return [short] if short.longest == long.longest else [short, long]


def budget(scan: Scan, point: Point) -> Budget:
    held = len(registers.held(scan)) * point.columns * (point.ahead + 1)
    carried = (2 * (len(scan.terms) if registers.pushed(scan) else 1) + len(scan.outputs)) * point.columns
    return Budget(held + carried + 40, max(registers.shared_bytes(scan, s) for s in shapes(scan, point)))


def legal(program: Program, target: Target, point: Point) -> list[str]:
    scan = program.scan
    assert scan is not None
    reasons = [*step.refusals(scan), *registers.refusals(scan), *channels.refusals(scan)]
    if reasons:
        return reasons
    need = budget(scan, point)
    reasons += fits(target, need.registers, point.threads)
    if need.shared > STATIC_SHARED:
        reasons.append(f"edges take {need.shared} bytes of static shared memory; a block has {STATIC_SHARED}")
    known = constant(scan.width)
    if known is not None and known > max(s.longest for s in shapes(scan, point)):
        reasons += strided.refusals(scan, target)
    return reasons


def default(program: Program, target: Target, knobs: Callable[..., P], widest: int, most: int = 1024, least: int = 1) -> P:
    """The widest columns that 16 bytes hold and a known width is a multiple of; threads enough for it, 256 for any width."""
    scan = program.scan
    assert scan is not None
    columns = min(widest, k.VECTOR // k.itemsize(program.dtype))
    width = constant(scan.width)
    while width is not None and width % columns and columns > least:
        columns //= 2
    for threads in (t for t in (256, 512, 1024) if t <= most):
        point = knobs(threads=threads, columns=columns)
        if width is None or threads * columns >= width:
            return point if not legal(program, target, point) else knobs(columns=columns)
    return knobs(columns=columns)


def fits(target: Target, registers_: int, threads: int) -> list[str]:
    reasons = []
    if registers_ > REGISTERS:
        reasons.append(f"a thread would need about {registers_} registers; it has {REGISTERS}")
    for gpu in target.gpus:
        if registers_ * threads > gpu.registers:
            reasons.append(
                f"{threads} threads of about {registers_} registers exceed the {gpu.registers} registers of {gpu.arch}"
            )
    return reasons


def schedule(program: Program, target: Target, point: Point) -> tirx.PrimFunc:
    return function(program, lambda scan, seen: _kernels(program, target, scan, seen, point))


def function(program: Program, kernels: Callable[[Scan, dict[str, tirx.Var]], None]) -> tirx.PrimFunc:
    """A Program's function, made of the kernels of its scan."""
    assert program.scan is not None
    made = Function(program)
    with made as buffers:
        whole(program, program.scan, buffers, kernels)
    return made.primfunc


def whole(
    program: Program, scan: Scan, buffers: dict[str, tirx.Var], kernels: Callable[[Scan, dict[str, tirx.Var]], None]
) -> None:
    """All kernels of a scan: as it stands where no results are shared, else the scan first and the sums after it."""
    separate = channels.separate(scan)
    if separate is None:
        kernels(scan, buffers)
        return

    def apart() -> None:
        kernels(*channels.leaving(scan, buffers))
        channels.emit(scan, buffers)

    k.choose(program, [(separate, lambda: kernels(scan, buffers)), (tirx.Not(separate), apart)])


def _kernels(program: Program, target: Target, scan: Scan, buffers: dict[str, tirx.Var], point: Point) -> None:
    forms = [
        Form(shape.longest, partial(registers.emit, scan, buffers, shape), partial(registers.emit, scan, buffers, shape, None))
        for shape in shapes(scan, point)
    ]
    by_width(program, scan, buffers, point.columns, forms, point.threads, target)


@dataclass(frozen=True)
class Form:
    """The kernels of lines up to `longest` columns: of whole pieces, whose number `wide` is given, and of any width."""

    longest: int
    wide: Callable[[Expr], None]
    single: Callable[[], None]


def by_width(
    program: Program, scan: Scan, buffers: dict[str, tirx.Var], columns: int, forms: Sequence[Form], threads: int, target: Target
) -> None:
    """One kernel of several by the width of the line; where none is long enough, the line in shared memory."""
    divides = k.multiple(scan.width, columns)
    pieces: Expr = tirx.floordiv(scan.width, columns)
    cases: list[tuple[Expr, Callable[[], None]]] = []
    longer: Expr = tirx.const(True, "bool")
    for form in forms:
        here = tirx.all(longer, scan.width <= form.longest)
        cases.append((tirx.all(divides, here), lambda f=form: f.wide(pieces)))
        cases.append((tirx.all(tirx.Not(divides), here), lambda f=form: f.single()))
        longer = scan.width > form.longest
    cases.append((longer, lambda: strided.emit(scan, buffers, threads, target)))
    k.choose(program, cases)
