"""Pixels: the merge as one flat stream.

Every operand but the four scalars is read at the index of the result, so planes and images do not matter: N*C*P elements
in memory order are cut into 16-byte groups, and only the very last group of the tensor can be short. Moves:

1. *flatten*: no division recovers n, c or p, and rows that are no multiple of 16 bytes cost nothing.
2. *16-byte accesses*: a thread has 8 loads (13 with skip) of 16 bytes and few registers, so that a multiprocessor is full of
   threads; one load in flight for each of its 2,048 is 32 KB, where 3.35 TB/s times 600 ns asks for 15 KB.
3. *round once*: the sum of the four directions is float32 in registers.

Floor: 9 tensors (14 with skip) cross the bus once. Predicted: 90 to 95 % of copy bandwidth; nothing was timed.

Compiler (sm_90a, nvcc 13.0, 2026-11-24): 32 registers in fp32 and in bf16 with C = 64, 40 in bf16 with unknown sizes, 36 and
64 with skip; no shared memory, no spills; every access of the whole groups is 16 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir.expr import Expr
from treadle.schedules import cuda_moves as moves
from treadle.schedules.emit import Function, value
from treadle.schedules.space import knob
from treadle.schedules.target import Target

SERIAL = True


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(256, (64, 128, 256, 512, 1024), "threads of a block: fewer end sooner in a ragged grid")
    access: int = knob(16, (4, 8, 16), "bytes of one access: wider ones need fewer instructions and more registers")


def applies(program: Program) -> bool:
    return program.name == "scan.gspn_merge"


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return []


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    (result,) = program.results
    total = moves.product(result.shape)
    lanes = moves.elements_of(point.access, program.dtype)
    function = Function(program)
    with function as buffers:
        size = moves.narrow(program, total)
        groups = tirx.ceildiv(total, moves.i64(lanes))
        with moves.blocks(tirx.ceildiv(groups, moves.i64(point.threads))) as block, moves.phase(point.threads) as thread:
            group = block.astype(size.ty.dtype) * point.threads + thread
            body = _Group(program, buffers, group, lanes, size)
            if moves.always_divides(lanes, total):
                with moves.when(group * lanes < size):
                    body.whole()
            else:
                moves.either(group * lanes + lanes <= size, body.whole, body.ragged)
    return function.primfunc


@dataclass(frozen=True)
class _Group:
    """The elements of one thread."""

    program: Program
    buffers: dict[str, tirx.Var]
    group: Expr
    lanes: int
    size: Expr

    def whole(self) -> None:
        """All lanes exist: every tensor is one wide access."""
        (result,) = self.program.results
        streams = {t: moves.Registers.private(self.lanes, str(t.dtype)) for t in self._streams()}
        for tensor, registers in streams.items():
            moves.read_vector(moves.Flat.of(tensor, self.buffers), self.group, registers, 0, self.lanes)
        out = moves.Registers.private(self.lanes, str(result.dtype))
        with T.unroll(self.lanes) as lane:
            out.store(lane, self._value(lambda tensor: streams[tensor][lane]))
        moves.write_vector(moves.Flat.of(result, self.buffers), self.group, out, 0, self.lanes)

    def ragged(self) -> None:
        """The last group of the tensor, one thread of the grid: element by element."""
        (result,) = self.program.results
        with T.serial(self.lanes) as lane:
            at = self.group * self.lanes + lane
            with moves.when(at < self.size):
                merged = self._value(lambda tensor: moves.Flat.of(tensor, self.buffers)[at])
                moves.Flat.of(result, self.buffers).store(at, merged)

    def _streams(self) -> list[te.Tensor]:
        """The operands with an element for each element of the result."""
        (result,) = self.program.results
        return [t for t in self.program.args if len(t.shape) == len(result.shape)]

    def _value(self, stream: Callable[[te.Tensor], Expr]) -> Expr:
        (result,) = self.program.results
        streams = self._streams()

        def load(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
            return stream(tensor) if tensor in streams else self.buffers[tensor.op.name][*index]

        return value(result, [moves.i64(0)] * len(result.shape), load)
