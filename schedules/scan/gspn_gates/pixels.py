"""Pixels: a thread owns a few pixels with all three of their gates. Serves the adjoint as well.

The three logits of a pixel lie in three planes of the same image, and their gates go back to the same places. Moves:

1. *flatten the planes*: G*H*W pixels of an image are one run; where its length is a multiple of the access (known, or asked
   once by a branch that a whole grid takes together) lanes are neighbours and every access is 16 bytes, else a lane is one
   thread block wide, so that a warp's scalar accesses still fall into whole lines.
2. *sigmoid once*: the three sigmoids and their sum stay in registers, so a pixel costs three exponentials; written from the
   plain loops it would be twelve.
3. *odometer*: the place on the line decides which neighbours exist; one division per thread, then additions.

Floor: six planes cross the bus once. Arithmetic is not free here: an accurate `expf` is about 8 instructions and each of the
six IEEE divisions about 9, in all 100 per pixel, where a multiprocessor at 3.35 TB/s has 200 issue slots for an fp32 pixel
and 100 for a bf16 one. Predicted: 85 to 90 % of copy bandwidth in fp32, 60 to 70 % in bf16 (fast-math would lift that, and
is a Program's to ask for); nothing was timed.

Compiler (sm_90a, nvcc 13.0, 2026-11-24): H = W = 64: 38 registers in fp32, 48 in bf16; unknown sizes: 44 and 60, both paths
in one kernel; no shared memory, no spills; three loads and three stores of 16 bytes; 12 `ex2.approx` for the 12 logits of
four pixels; `rcp.rn` for the sigmoid, `div.rn` for the share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import sym, te, tirx

from treadle.ir import Program
from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.schedules import cuda_moves as moves
from treadle.schedules.emit import Function, value
from treadle.schedules.moves import speculate_selects
from treadle.schedules.space import knob
from treadle.schedules.target import Target

SERIAL = True
GATES = 3


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(256, (64, 128, 256, 512), "threads of a block")
    access: int = knob(16, (2, 4, 8, 16), "bytes of one access, which is how many pixels a thread owns")


def applies(program: Program) -> bool:
    return program.name in ("scan.gspn_gates", "scan.gspn_gates_adjoint")


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    lanes, size = moves.elements_of(point.access, program.dtype), _run(program)
    if lanes > 1 and moves.never_divides(lanes, size):
        return [f"an image has {size} pixels, no multiple of the {lanes} that an access of {point.access} bytes moves"]
    return moves.access_refusals(program, point.access)


def default(program: Program, target: Target) -> Knobs:
    return Knobs(access=moves.widest(program, _run(program)))


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    images, run = program.args[0].shape[0], _run(program)
    lanes = moves.elements_of(point.access, program.dtype)
    tiles = tirx.ceildiv(run, moves.i64(point.threads * lanes))
    function = Function(program)
    with function as buffers, moves.blocks(images * tiles) as block, moves.phase(point.threads) as thread:
        image, tile = moves.split_block(block, tiles)
        tile = tile.astype(moves.index_type(program, run))
        pixels = _Pixels(program, buffers, image.astype("int64"), moves.narrow(program, run))
        own = tile * point.threads + thread

        def side_by_side() -> None:
            with moves.when(own * lanes < pixels.run):
                pixels.emit(lanes, own * lanes, group=own)

        def apart() -> None:
            pixels.emit(lanes, tile * (point.threads * lanes) + thread, stride=point.threads)

        moves.either(moves.divides(lanes, run), side_by_side, apart)
    return speculate_selects(function.primfunc)


def _run(program: Program) -> Expr:
    return moves.product(program.args[0].shape[2:])


@dataclass(frozen=True)
class _Pixels:
    """The pixels of one thread, in one image."""

    program: Program
    buffers: dict[str, tirx.Var]
    image: Expr
    run: Expr

    def emit(self, lanes: int, first: Expr, group: Expr | None = None, stride: int = 1) -> None:
        """`group` names the aligned group that the pixels are; without it they lie `stride` apart and may not all exist."""
        inputs = {t.op.name: moves.Flat.of(t, self.buffers) for t in self.program.args}
        result = moves.Flat.of(self.program.results[0], self.buffers)
        kind, run = self.program.dtype, self.run.astype("int64")
        held = {name: [moves.Registers.private(lanes, kind) for _ in range(GATES)] for name in inputs}
        out = [moves.Registers.private(lanes, kind) for _ in range(GATES)]
        planes = [(self.image * GATES + k) * run for k in range(GATES)]
        groups = []
        if group is not None:
            per_plane = tirx.truncdiv(run, lanes)
            groups = [moves.hold((self.image * GATES + k) * per_plane + group) for k in range(GATES)]
        exists = [True if group is not None else first + lane * stride < self.run for lane in range(lanes)]
        for name, flat in inputs.items():
            for k in range(GATES):
                if group is not None:
                    moves.read_vector(flat, groups[k], held[name][k], 0, lanes)
                else:
                    for lane in range(lanes):
                        at = planes[k] + first + lane * stride
                        held[name][k].store(lane, moves.read_guarded(flat, at, exists[lane], kind))
        place = _Place(self.program, str(first.ty.dtype))
        for lane in range(lanes):
            place.find(first + lane * stride) if lane == 0 or stride > 1 else place.step()
            self._gates(place, lambda name, k, lane=lane: held[name][k][lane], lambda k, v, lane=lane: out[k].store(lane, v))
        for k in range(GATES):
            if group is not None:
                moves.write_vector(result, groups[k], out[k], 0, lanes)
            else:
                for lane in range(lanes):
                    with moves.when(exists[lane]):
                        result.store(planes[k] + first + lane * stride, out[k][lane])

    def _gates(self, place: _Place, own: Callable[[str, int], Expr], store: Callable[[int, Expr], None]) -> None:
        """The three results of one pixel: each stage of the Program once, later stages reading registers."""
        (result,) = self.program.results
        stages: dict[str, moves.Registers] = {}

        def load(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
            return stages[tensor.op.name][index[1].value if len(index) == len(result.shape) else 0]

        # Widened first: TVM 0.27 does not decode a bfloat16 load inside the Let that a speculated Select becomes.
        for tensor in self.program.args:
            stages[tensor.op.name] = moves.Registers.private(GATES, "float32")
            for k in range(GATES):
                stages[tensor.op.name].store(k, own(tensor.op.name, k).astype("float32"))
        for stage in moves.stages(result):
            per_gate = len(stage.shape) == len(result.shape)
            registers = moves.Registers.private(GATES if per_gate else 1, str(stage.dtype))
            for k in range(GATES if per_gate else 1):
                registers.store(k, place.value(stage, k, load))
            stages[stage.op.name] = registers
        for k in range(GATES):
            store(k, place.value(result, k, load))


class _Place:
    """Where in its image a pixel is: row and column, in registers."""

    def __init__(self, program: Program, kind: str) -> None:
        sizes = program.args[0].shape[-2:]
        self.height, self.width = (moves.narrow(program, s).astype(kind) for s in sizes)
        self.row, self.column = moves.Registers.private(1, kind), moves.Registers.private(1, kind)
        self.symbols = tirx.Var("i", "int64"), tirx.Var("j", "int64")
        self.holds = tirx.all(*(e for v, s in zip(self.symbols, sizes, strict=True) for e in (v >= 0, v < s)))

    def find(self, pixel: Expr) -> None:
        self.row.store(0, tirx.truncmod(tirx.truncdiv(pixel, self.width), self.height))
        self.column.store(0, tirx.truncmod(pixel, self.width))

    def step(self) -> None:
        """To the next pixel, as an odometer turns: the row first, while the column is still the old one."""
        i, j = self.row[0], self.column[0]
        zero = tirx.const(0, i.ty)
        turns = j + 1 == self.width
        self.row.store(0, tirx.Select(turns, tirx.Select(i + 1 == self.height, zero, i + 1), i))
        self.column.store(0, tirx.Select(turns, zero, j + 1))

    def value(self, tensor: te.Tensor, k: int, load: Callable[[te.Tensor, Sequence[Expr]], Expr]) -> Expr:
        """The value of a stage for gate k here; what holds at every pixel of an image is settled now."""
        zero = moves.i64(0)
        index = [zero, *([moves.i64(k)] if len(tensor.shape) == 5 else []), zero, *self.symbols]
        analyzer = sym.Analyzer()
        with analyzer.constraint_scope(self.holds):
            plain = analyzer.simplify(value(tensor, index, load))
        here = (r[0].astype("int64") for r in (self.row, self.column))
        return ex.substitute(plain, dict(zip(self.symbols, here, strict=True)))
