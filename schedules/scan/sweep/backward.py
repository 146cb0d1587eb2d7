"""Adjoints of sweeps: walks that keep what they carry, then a kernel in which no pixel waits for another.

An adjoint sweep is pairs of scans: the forward one again, for its states, and the one that walks back. Neither needs the
other's carry; only the gradients need both. So three kernels:

1. all forward scans side by side, a block per plane, their states to scratch memory;
2. all backward scans the same way, carrying products, since their weights lie where the carry comes from;
3. pixel by pixel, every gradient, and what channels share added up in their order; a fourth kernel for sums over planes.

Scratch holds two float32 a pixel, channel and direction: twice what float32 tensors of states would be, four times for half.
Nothing is kept in shared memory but carry lines, so that size is no matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from tvm import te, tirx

from treadle.ir import Program
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Scan
from treadle.schedules.emit import Function
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import int64
from treadle.schedules.scan.sweep import form, pixels
from treadle.schedules.scan.sweep.walk import Buffers, Room
from treadle.schedules.scratch import scratch
from treadle.schedules.target import Target


def applies(program: Program) -> bool:
    """Pairs of a scan whose states nobody else gets, and one that reads them a step aside."""
    if program.sweep is None:
        return False
    scans = program.sweep.scans
    again, back = scans[::2], scans[1::2]
    names = {r.op.name for r in program.results}
    return (
        len(again) == len(back)
        and all(len(s.outputs) == 1 and s.outputs[0].tensor.op.name not in names for s in again)
        and all(any(r.back for r in s.reads.values()) for s in back)
    )


def again(program: Program) -> tuple[Scan, ...]:
    assert program.sweep is not None
    return program.sweep.scans[::2]


def back(program: Program) -> tuple[Scan, ...]:
    """The backward scans as they stand, with all that follows from their carry."""
    assert program.sweep is not None
    return program.sweep.scans[1::2]


def walked(program: Program) -> tuple[Scan, ...]:
    """The backward scans with their carry for only output."""
    found = []
    for i, scan in enumerate(back(program)):
        kept = te.placeholder(tuple(scan.sizes), CARRY, f"carry_back{i}")
        found.append(replace(scan, outputs=(Output(kept, tuple, scan.carry),)))
    return tuple(found)


def legal(program: Program, target: Target, point: form.Point) -> list[str]:
    reasons = [r for scans in (again(program), walked(program)) for r in form.walk_refusals(program, scans, target, point)]
    return sorted({*reasons, *pixels.refusals(back(program))})


def schedule(program: Program, target: Target, point: form.Point) -> tirx.PrimFunc:
    function = Function(program)
    with function as buffers:
        kept = [s.outputs[0].tensor for s in (*again(program), *walked(program))]
        each = k.product(kept[0].shape)
        with scratch(target, each * len(kept)) as flat:
            rooms: Buffers = {t.op.name: Room(flat, int64(i) * each) for i, t in enumerate(kept)}
            seen = {**buffers, **rooms}
            for scans in (again(program), walked(program)):
                form.walks(program, scans, seen, target, point)
            carries = [rooms[s.outputs[0].tensor.op.name] for s in walked(program)]
            own = _own(back(program))
            if own is None:
                pixels.emit(back(program), carries, seen, False)
            else:
                cases = [(own, lambda: pixels.emit(back(program), carries, seen, False))]
                cases.append((tirx.Not(own), lambda: pixels.emit(back(program), carries, seen, True)))
                k.choose(program, cases)
            pixels.emit_sums(back(program), carries, seen)
    return function.primfunc


def _own(scans: tuple[Scan, ...]) -> Expr | None:
    """Whether each channel has its elements of the summed tensors to itself; None where nothing is shared."""
    sizes = [o.tensor.shape[d] == s.sizes[a] for s in scans for o in s.outputs for a, d in o.shared]
    return sizes[0] if sizes else None


P = TypeVar("P", bound=form.Point)


def default(program: Program, target: Target, knobs: Callable[..., P]) -> P:
    return form.threads_for(program, knobs, lambda point: not legal(program, target, point))
