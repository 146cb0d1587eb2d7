"""Windows: a thread owns a few channels and walks along time, or a few steps of one channel; its window is in registers.

Where channels are contiguous (bld) a thread walks `steps` steps, the last width - 1 of them in registers, and neighbours take
neighbouring channels. Where time is contiguous (bdl) a thread takes the steps of one access and the few around them. Moves:

1. *the window in registers*: every element of x is read once, and the halo of width - 1 steps once more, from L1.
2. *wide accesses* where rows are multiples of them (known, or asked once by a branch that the whole grid takes together).
3. *g in a window too*: the backward works out g = dy act'(pre) as it walks, width - 1 steps beyond its own.
4. *weight gradients where they arise*: a thread that walks adds them up in two levels of 16 steps, so that a part of 256 loses
   few digits; threads side by side add theirs up through shared memory, in phases.

Floor: x read and y written once; backward dy, x read and dx written once. Arithmetic is not free with SiLU in bf16: an `expf` and
an IEEE division, some 20 instructions per element, where a multiprocessor has 34 issue slots. Predicted: 80 to 90 % of copy
bandwidth in fp32, 60 to 80 % in bf16; nothing was timed.

Compiler (sm_90a, nvcc 13.0, 2026-11-24), unknown sizes, fp32 and bf16: bld 62 and 105 registers forward, 140 and 154
backward; bdl 32 and 54, 52 and 64 with 1,664 bytes of shared memory; no spills.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.expr import Expr
from treadle.schedules import cuda_moves as moves
from treadle.schedules.conv_family import Conv
from treadle.schedules.emit import Function
from treadle.schedules.scan.conv_side import Side
from treadle.schedules.scan.conv_walk import Walk
from treadle.schedules.space import knob
from treadle.schedules.target import Target

SERIAL = True


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(128, (32, 64, 128, 256), "threads of a block")
    steps: int = knob(32, (8, 16, 32, 64), "steps that a thread walks where channels are contiguous; the backward walks a part")
    access: int = knob(
        8, (2, 4, 8, 16), "bytes of one access: the channels or steps of a thread, each with a window in registers"
    )


def applies(program: Program) -> bool:
    return program.name in ("scan.causal_conv1d", "scan.causal_conv1d_adjoint")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    conv = Conv.of(program)
    lanes, run = moves.elements_of(point.access, program.dtype), _run(conv)
    reasons = moves.access_refusals(program, point.access)
    if lanes > 1 and moves.never_divides(lanes, run):
        reasons.append(f"rows of {dm.text(run)} elements are no multiple of the {lanes} of one access")
    if conv.backward and lanes > 4:
        reasons.append(f"{lanes} windows of x, g and sums do not fit the registers of a thread")
    if conv.backward and not conv.channels_last and conv.chunk // lanes > moves.MOST_THREADS:
        reasons.append(f"a part of {conv.chunk} steps takes more threads than a block has")
    return reasons


def default(program: Program, target: Target) -> Knobs:
    conv = Conv.of(program)
    most = 16 if not conv.backward else 4 * (4 if program.dtype == "float32" else 2)
    return Knobs(access=min(most, moves.widest(program, _run(conv))))


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    conv = Conv.of(program)
    function = Function(program)
    with function as buffers:
        lanes = moves.elements_of(point.access, program.dtype)
        (Walk if conv.channels_last else Side)(conv, buffers, point, lanes).emit()
    return function.primfunc


def _run(conv: Conv) -> Expr:
    """The elements that lie side by side."""
    return conv.sizes[2] if conv.channels_last else conv.sizes[1]
