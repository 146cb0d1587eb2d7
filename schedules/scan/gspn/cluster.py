"""Rung 9, scan.gspn, t2b and b2t: lines longer than a block, along a cluster of blocks that hand their edges to each other.

A block that strides over a line of 4096 is coalesced, but holds the line in shared memory and waits for four loads a step,
one after the other: 6.5 us a step. Blocks of a cluster share the line, each with its part in registers, and run on as many
multiprocessors; the outermost threads write their edge into the neighbour's shared memory (st.shared::cluster).

1. Two, four or eight blocks of 256 threads with four columns: lines up to 8192, whole pieces or not.
2. One barrier.cluster a step, predicted 180 ns; loads three steps ahead (0.27 us) cover it.
3. Not recomputed halos: k columns for k steps would save k - 1 of k barriers, which no load waits for as it is.

Predicted for H100, not measured, 1 x 16 x 4096^2 (64 blocks, half the device): fp32 2.1 ms, 3.08 TB/s, with 60 KiB in flight
on each multiprocessor that has blocks; one block a line (coalesced) 28 ms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from tvm import tirx

from treadle.ir import Program
from treadle.ir.dims import constant
from treadle.ir.scan import Scan
from treadle.schedules.scan import clustered, lines, registers
from treadle.schedules.scan.lines import Form, applies
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

#: Blocks write into each other's shared memory.
SERIAL = False


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(256, (64, 128, 256, 512), "threads of a block")
    columns: int = knob(4, (1, 2, 4), "consecutive columns of a thread; 8, with loads three steps ahead, would take 230 registers")
    ahead: int = knob(3, (1, 3), "steps that loads run ahead: they cover the cluster's barrier too")
    ctas: int = knob(4, (2, 4, 8), "blocks of a cluster, side by side along a line; 8 is the most that every device grants")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    reasons = lines.legal(program, target, point)
    return reasons + [f"{arch} has no clusters: a block cannot reach the shared memory of another" for arch in target.lacks("cluster")]


def default(program: Program, target: Target, ahead: int = 3) -> Knobs:
    """Blocks of 256 threads, as few as a known width needs: each waits for the others."""
    assert program.scan is not None
    point, width = Knobs(ahead=ahead), constant(program.scan.width)
    reach = point.threads * point.columns
    return replace(point, ctas=4 if width is None else next((c for c in (2, 4) if width <= c * reach), 8))


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    def kernels(scan: Scan, buffers: dict[str, tirx.Var]) -> None:
        shape = registers.Shape(point.threads, 1, point.columns, point.ahead)
        one = partial(registers.emit, scan, buffers, shape)
        many = partial(clustered.emit, scan, buffers, shape, ctas=point.ctas)
        forms = [
            Form(shape.longest, one, partial(one, None)),
            Form(point.ctas * shape.longest, many, partial(many, None)),
        ]
        lines.by_width(program, scan, buffers, point.columns, forms, point.threads, target)

    return lines.function(program, kernels)
