"""The kernels of a sweep, and which sizes each of them gets.

line <= threads     a thread per position, what a step needs loaded a step or more ahead
beyond              the same threads striding over the line, each step loaded when it is walked: right, not fast
thousands           the same, a kernel for each scan, where their carry lines do not fit shared memory together
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Protocol, TypeVar

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir import expr as ex
from treadle.ir.dims import Size, constant, evaluate
from treadle.ir.expr import Expr
from treadle.ir.scan import Scan
from treadle.schedules.emit import Function
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import int64
from treadle.schedules.scan.lines import fits as registers_fit
from treadle.schedules.scan.sweep import plane
from treadle.schedules.scan.sweep.alike import Common, rounds
from treadle.schedules.scan.sweep.walk import Buffers, Shape, in_plane
from treadle.schedules.target import Target

MOST_THREADS = 1024


class Point(Protocol):
    threads: int
    ahead: int


def applies(program: Program) -> bool:
    """Forward sweeps: nothing is read one step aside, and no scan reads what another leaves."""
    if program.sweep is None:
        return False
    return not any(r.back for s in program.sweep.scans for r in s.reads.values())


def limit(target: Target) -> int:
    """Bytes of shared memory that a block may have on every architecture of a target."""
    return min(g.shared_bytes for g in target.gpus)


def legal(program: Program, target: Target, point: Point) -> list[str]:
    assert program.sweep is not None
    return walk_refusals(program, program.sweep.scans, target, point)


def walk_refusals(program: Program, scans: tuple[Scan, ...], target: Target, point: Point) -> list[str]:
    """What the walks of some scans cannot be."""
    reasons = [reason for s in scans for reason in refusals(scans, s)]
    if program.attrs.get("checkpoint"):
        reasons.append(f"checkpoint = {program.attrs['checkpoint']}: these walks keep every state or none")
    if reasons:
        return sorted(set(reasons))
    side_by_side = max(map(len, rounds(scans)))
    threads = point.threads * side_by_side
    if threads > MOST_THREADS:
        return [f"{side_by_side} scans side by side of {point.threads} threads are {threads}, over the {MOST_THREADS} of a block"]
    reasons += registers_fit(target, registers(scans, point), threads)
    room = [constant(plane.fits(part, limit(target))) for part in apart(scans)]
    if any(r is not None and not r for r in room):
        reasons.append(f"carry lines and one row of sums exceed the {limit(target)} bytes of shared memory of a block")
    return reasons


def refusals(scans: tuple[Scan, ...], scan: Scan) -> list[str]:
    reasons = []
    if any(end is not None for end in (scan.init, scan.flush, scan.final, scan.entry)):
        reasons.append("an initial or last carry: every line starts from nothing here")
    if len(scan.sizes) != 4:
        reasons.append(f"{len(scan.sizes)} axes: a block stands at a place of two beside walk and line")
    if any(abs(t.offset) > 1 for t in scan.terms):
        reasons.append("a step that looks further than 1 along the line: carry lines have 1 place beyond their ends")
    if len([s for s in scans if s.axis == scan.axis]) > 2:
        reasons.append("more than 2 scans along one axis: they would meet at a step")
    common = Common(scan)
    for end in (*filter(common.moves, common.loads), *(o for o, _ in common.outputs)):
        if not in_plane(scan, end):
            reasons.append(f"{end.tensor.op.name}: the last 2 dimensions of what is walked must be the plane")
    if not common.settled or any(ex.depends(f, common.at[scan.axis]) for f in common.flags):
        reasons.append("a condition that changes from step to step: 1 flag is kept for the whole walk")
    return reasons


def registers(scans: tuple[Scan, ...], point: Point) -> int:
    """About as many as a thread needs, never less than the compiler reports."""
    common = Common(scans[0])
    return len(common.loads) * (point.ahead + 3) + len(common.flags) + 24


def schedule(program: Program, target: Target, point: Point) -> tirx.PrimFunc:
    assert program.sweep is not None
    function = Function(program)
    with function as buffers:
        walks(program, program.sweep.scans, buffers, target, point)
    return function.primfunc


def apart(scans: tuple[Scan, ...]) -> list[tuple[Scan, ...]]:
    """The parts that may be kernels of their own: single scans, unless they add up what they write."""
    return [scans] if plane.summed(scans) else [(s,) for s in scans]


def walks(program: Program, scans: tuple[Scan, ...], buffers: Buffers, target: Target, point: Point) -> None:
    """The kernels that walk some scans of a Program: all at once, or one after another where lines are too long for that."""
    most, parts = limit(target), apart(scans)
    for part in parts:
        _assert(program, plane.fits(part, most), most)
    longest: Expr = int64(0)
    for scan in scans:
        longest = tirx.max(longest, scan.width)
    short, long = Shape(point.threads, point.ahead), Shape(point.threads, 0)

    def strided(parts: list[tuple[Scan, ...]]) -> None:
        for part in parts:
            plane.emit(part, buffers, long, most)

    room = plane.fits(scans, most)
    cases = [(longest <= point.threads, lambda: plane.emit(scans, buffers, short, most))]
    if len(parts) == 1:
        cases.append((longest > point.threads, lambda: strided(parts)))
    else:
        cases.append((tirx.all(longest > point.threads, room), lambda: strided([scans])))
        cases.append((tirx.all(longest > point.threads, tirx.Not(room)), lambda: strided(parts)))
    k.choose(program, cases)


def _assert(program: Program, room: Expr, most: int) -> None:
    if k.decided(program, room) is not True:
        with T.Assert(room, f"the lines of a plane exceed the {most} bytes of shared memory of a block", "ValueError"):
            pass


P = TypeVar("P", bound=Point)


def default(program: Program, target: Target, knobs: Callable[..., P]) -> P:
    return threads_for(program, knobs, lambda point: not legal(program, target, point))


def threads_for(program: Program, knobs: Callable[..., P], fits: Callable[[P], bool]) -> P:
    """The fewest threads that have one for each position of the longest line that may come; if none have, the plain choice."""
    assert program.sweep is not None
    longest = max(most(program, s.width) for s in program.sweep.scans)
    choices = next(f.metadata["choices"] for f in fields(knobs) if f.name == "threads")  # type: ignore[arg-type]
    enough = [knobs(threads=t) for t in choices if t >= longest]
    return next((p for p in enough if fits(p)), knobs())


def most(program: Program, size: Size) -> int:
    return evaluate(size, {n: d.hi for n, d in program.dims.items()} | dict(program.bound))
