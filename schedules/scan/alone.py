"""The strided form by itself, for any scan: one launch, a block per line, the carry in shared memory, each value as it comes."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from treadle.ir import Program
from treadle.schedules.emit import Function
from treadle.schedules.scan import channels, lines, step, strided
from treadle.schedules.space import knob
from treadle.schedules.target import Target

#: Phases are loops of their own and barriers stand between them: the emulation is valid.
SERIAL = True


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(512, (128, 256, 512, 1024), "threads of a block, striding over the line")


def applies(program: Program, along: str) -> bool:
    """Whether the contiguous axis is the line, or the walked axis."""
    scan = program.scan
    return scan is not None and step.contiguous(scan, getattr(scan, along), *scan.outputs)


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    assert program.scan is not None
    scan = program.scan
    return [*step.refusals(scan), *channels.refusals(scan), *strided.refusals(scan, target)]


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    assert program.scan is not None
    function = Function(program)
    with function as buffers:
        lines.whole(program, program.scan, buffers, lambda scan, seen: strided.emit(scan, seen, point.threads, target))
    return function.primfunc
