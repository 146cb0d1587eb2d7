"""The selective scan on a CPU, forward and backward. It exploits:

1. Vectors across channels. Eight channels walk side by side, one state after another: decays are independent exponentials,
   B and C are broadcast as they lie in memory, the sum over states is no sum over lanes. Rows are turned round in registers.
2. Registers. A state stays in one for the steps of a tile; two or four states walk together, so that the chain of a state's
   products, one addition after another, hides behind the exponentials of the others.
3. L1. A tile of steps (64) of everything that eight channels share is 16 KB; B and C of the tile are widened once for the
   32 channels of a task.
4. Cores. Tasks are 32 channels of a group of a sequence: those whose gradients of B and C make one part.

The exponential is most of the work. 2^(step * A log2 e), by a polynomial of degree 6: 15 instructions for 8 elements, of 23
that a state's step has in all. The backward makes the states again, tile by tile from checkpoints that a first walk leaves:
two exponentials for each state's step, decays kept for the way back.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.schedules.cpu import preconditions, vecmath
from treadle.schedules.cpu.selective_walk import Task
from treadle.schedules.emit import Function
from treadle.schedules.selective_family import NAMES, Family
from treadle.schedules.space import knob
from treadle.schedules.target import Target


@dataclass(frozen=True)
class Knobs:
    tile: int = knob(64, (32, 64, 128), "steps of a tile: what its channels share stays in L1")
    together: int = knob(4, (1, 2, 4), "states that walk together: their chains overlap")


def applies(program: Program) -> bool:
    return program.name in NAMES


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return []


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    family = Family.of(program)
    function = Function(program)
    with function as buffers:
        preconditions.emit(program, buffers)
        s, g, r, _ = family.sizes
        parts = T.bind(tirx.truncdiv(r + (family.part - 1), tirx.const(family.part, "int64")))
        with T.parallel(0, s * g * parts) as index:
            part, rest = T.bind(tirx.truncmod(index, parts)), T.bind(tirx.truncdiv(index, parts))
            place = T.bind(tirx.truncdiv(rest, g)), T.bind(tirx.truncmod(rest, g)), part
            task = Task(family, buffers, target.cpu.lanes, point.tile, point.together, place)
            task.forward() if family.back is None else task.backward()
    return vecmath.vectorise(function.primfunc)
