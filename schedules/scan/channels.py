"""Gradients summed over the channels that share an element, in channel order, by two kernels without a workspace.

The recurrence couples the columns of a line, the sum couples channels: one block for both would be one block per image.
So the scan runs first, every channel for itself, and leaves its carry, all 32 bits, where results of the same place will
stand: in one fp32 tensor, or in the halves of two 16-bit ones. A second kernel then visits every pixel once, walks its
channels, replaces the carry by the results and adds up what is shared, in fp32. Nothing is recomputed and the order of
the sum is fixed; the price is the carry written and read once, two tensors of traffic where the floor has six.
"""

from __future__ import annotations

from dataclasses import replace

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read, Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan.kernel import int64
from treadle.schedules.scan.step import Cell, ends, step_of

Buffers = dict[str, tirx.Var]
THREADS = 256


def separate(scan: Scan) -> Expr | None:
    """Whether each position has its elements of the summed tensors to itself; None where nothing is ever summed."""
    sizes = [o.tensor.shape[d] == scan.sizes[a] for o in scan.outputs for a, d in o.shared]
    return sizes[0] if sizes else None


def homes(scan: Scan) -> list[Output]:
    """Outputs with one element per position and 32 bits between them: where a carry can be left."""
    found: list[Output] = []
    for output in scan.outputs:
        position = [tirx.Var(f"p{a}", "int64") for a in range(len(scan.sizes))]
        index = output.index(position)
        if len(index) == len(position) and all(i.same_as(p) for i, p in zip(index, position, strict=True)):
            found.append(output)
        if sum(k.itemsize(str(o.tensor.dtype)) for o in found) >= 4:
            return found
    return []


def refusals(scan: Scan) -> list[str]:
    if separate(scan) is None or homes(scan):
        return []
    return ["no results of 32 bits a position, in which a carry could wait to be summed"]


def leaving(scan: Scan, buffers: Buffers) -> tuple[Scan, Buffers]:
    """The same scan, with its carry as only output, left in the homes."""
    places = homes(scan)
    if len(places) == 1:
        return replace(scan, outputs=(replace(places[0], value=scan.carry, shared=()),)), buffers
    halves, seen = [], dict(buffers)
    for part, place in enumerate(places):
        name = place.tensor.op.name
        bits = tirx.reinterpret("uint32", scan.carry)
        value = tirx.bitwise_and(tirx.shift_right(bits, tirx.const(16 * part, "uint32")), tirx.const(0xFFFF, "uint32")).astype(
            "uint16"
        )
        halves.append(Output(te.placeholder(place.tensor.shape, "uint16", name), place.index, value))
        seen[name] = T.decl_buffer(place.tensor.shape, "uint16", data=buffers[name].data)
    return replace(scan, outputs=tuple(halves)), seen


def _left(scan: Scan, buffers: Buffers, position: list[Expr]) -> Expr:
    """The carry that was left at a position."""
    left = [buffers[o.tensor.op.name][*o.index(position)] for o in scan.outputs]
    if len(left) == 1:
        return left[0]
    bits = tirx.const(0, "uint32")
    for part, half in enumerate(left):
        bits = tirx.bitwise_or(bits, tirx.shift_left(half.astype("uint32"), tirx.const(16 * part, "uint32")))
    return tirx.reinterpret(CARRY, bits)


def emit(scan: Scan, buffers: Buffers) -> None:
    """The second kernel: a thread per pixel, consecutive threads along the last axis."""
    (channel,) = {a for o in scan.outputs for a, _ in o.shared}
    (outer,) = [a for a in k.independent(scan) if a != channel]
    last = max(scan.axis, scan.line)
    across = min(scan.axis, scan.line)
    first, found = leaving(scan, buffers)
    summed = [i for i, o in enumerate(scan.outputs) if o.shared]
    pieces = tirx.floordiv(scan.sizes[last] + (THREADS - 1), THREADS)
    with (
        T.thread_binding(int64(0), scan.sizes[across], thread="blockIdx.x") as row,
        T.thread_binding(int64(0), tirx.min(scan.sizes[outer], int64(k.GRID_Y)), thread="blockIdx.y") as y,
        T.thread_binding(int64(0), tirx.min(pieces, int64(k.GRID_Y)), thread="blockIdx.z") as z,
    ):
        sums = T.sblock_alloc_buffer((THREADS, len(summed)), CARRY, scope="local")
        carry = T.sblock_alloc_buffer((THREADS, 1), CARRY, scope="local")
        with k.phase(THREADS) as (tx, _), _strides(scan.sizes[outer], y) as n, _strides(pieces, z) as piece:
            column = piece * THREADS + tx
            at = {outer: n, across: row, last: column}
            step = scan.time(at[scan.axis])  # the walk is its own inverse: step and index are mirrored, or the same
            with k.when(k.both(n < scan.sizes[outer], column < scan.sizes[last])):
                for i in range(len(summed)):
                    T.buffer_store(sums, tirx.const(0.0, CARRY), [tx, i])
                with T.serial(int64(0), scan.sizes[channel]) as c:
                    _channel(scan, first, buffers, found, {**at, channel: c}, step, tx, carry, sums)
                for i, which in enumerate(summed):
                    output = scan.outputs[which]
                    index = output.index([{**at, channel: int64(0)}[a] for a in range(len(scan.sizes))])
                    T.buffer_store(buffers[output.tensor.op.name], sums[tx, i].astype(output.tensor.dtype), list(index))


def _channel(
    scan: Scan, first: Scan, buffers: Buffers, found: Buffers, at: dict[int, Expr], step: Expr, tx: Expr,
    carry: tirx.Var, sums: tirx.Var,
) -> None:  # fmt: skip
    axes = range(len(scan.sizes))

    def load(read: Read) -> Expr:
        there = {**at, scan.axis: scan.time(step - read.back), scan.line: at[scan.line] + read.shift}
        return buffers[read.tensor.op.name][*read.index([there[a] for a in axes])]

    here = [at[a] for a in axes]
    T.buffer_store(carry, _left(first, found, here), [tx, 0])
    cell = Cell(scan, step_of(scan, step), ends(at[scan.line], scan.width), load)
    i = 0
    for output in scan.outputs:
        value = cell.value(output.value, carry[tx, 0])
        if output.shared:
            T.buffer_store(sums, sums[tx, i] + value, [tx, i])
            i += 1
        else:
            T.buffer_store(buffers[output.tensor.op.name], value.astype(output.tensor.dtype), list(output.index(here)))


class _strides:
    """A loop over more blocks than a grid has: start, start + 65535, ..."""

    def __init__(self, count: Expr, start: Expr) -> None:
        self.loop = T.serial(int64(0), tirx.floordiv(count + (k.GRID_Y - 1), k.GRID_Y))
        self.start = start

    def __enter__(self) -> Expr:
        return self.loop.__enter__() * k.GRID_Y + self.start

    def __exit__(self, *error: object) -> None:
        self.loop.__exit__(*error)
