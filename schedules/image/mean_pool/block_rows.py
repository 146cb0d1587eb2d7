"""Block rows: a few planes to a block, a team of threads to a plane.

All planes are one flat row of elements, so a plane is a window in it that may begin and end inside a 16-byte group. Moves:

1. *aligned windows*: a team reads every whole group its plane touches and leaves out what belongs to the neighbours, so that
   planes of any size (37 x 37 is odd) are read 16 bytes at a time; nothing is masked where the size is known to fit.
2. *loads first*: a thread starts `ahead` loads before it adds the first of them; 256 threads of 4 loads keep 16 KB a block
   in flight.
3. *sum through shared memory* in phases, one barrier (two above 32 threads a plane); lanes of a group add up apart, in float32.

Floor: x crosses the bus once. Predicted: 85 to 92 % of read bandwidth from planes of 1,000 elements on; small planes are
bound by the launch. Nothing was timed.

Compiler (sm_90a, nvcc 13.0, 2026-11-24): P = 4096: 26 registers in fp32, 32 in bf16; P = 1369: 40 and 51; unknown P: 44 and
64; at most 1,280 bytes of shared memory, no spills, 16-byte loads in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.expr import Expr
from treadle.schedules import cuda_moves as moves
from treadle.schedules.emit import Function, value
from treadle.schedules.space import knob
from treadle.schedules.target import Target

SERIAL = True


@dataclass(frozen=True)
class Knobs:
    across: int = knob(64, (8, 16, 32, 64, 128, 256, 512, 1024), "threads to a plane: a multiple of its groups, or lanes idle")
    rows: int = knob(4, (1, 2, 4, 8, 16, 32), "planes to a block: small planes would leave it with too few threads")
    ahead: int = knob(4, (1, 2, 4, 8), "loads a thread starts before it adds the first")
    access: int = knob(16, (2, 4, 8, 16), "bytes of one load")


def applies(program: Program) -> bool:
    return program.name == "image.mean_pool"


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return moves.access_refusals(program, point.access) + moves.Teams(point.across, point.rows).refusals()


def default(program: Program, target: Target) -> Knobs:
    size = dm.constant(program.args[0].shape[-1])
    if size is None:
        return Knobs()
    per_thread = Knobs.ahead * moves.elements_of(Knobs.access, program.dtype)
    across = next((a for a in (8, 16, 32, 64, 128) if a * per_thread >= size), 256)
    return Knobs(across=across, rows=max(1, 256 // across))


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    (source,), (result,) = program.args, program.results
    (total,) = moves.stages(result)
    *outer, size = source.shape
    planes, elements = moves.product(outer), moves.product(source.shape)
    lanes, teams = moves.elements_of(point.access, program.dtype), moves.Teams(point.across, point.rows)
    exact, whole = moves.always_divides(lanes, size), moves.always_divides(lanes, elements)
    steps = tirx.ceildiv(tirx.floordiv(size, moves.i64(lanes)) + (0 if exact else 2), moves.i64(point.across * point.ahead))
    function = Function(program)
    with function as buffers:
        across = moves.TeamSum(teams)
        x = moves.Flat.of(source, buffers)

        def term(element: Expr) -> Expr:
            return moves.summand(total, lambda tensor, index: element)

        with moves.blocks(tirx.ceildiv(planes, moves.i64(point.rows))) as block:
            with moves.phase(teams.threads) as thread:
                row = teams.row(block, thread)
                begin, end = row * size, (row + 1) * size
                first, last = _groups(begin, size, row, lanes, exact)
                held = [moves.Registers.private(lanes, program.dtype) for _ in range(point.ahead)]
                sums = moves.Registers.private(lanes, "float32")
                for lane in range(lanes):
                    sums.store(lane, moves.f32(0.0))
                with T.serial(moves.i64(0), steps) as step:
                    start = first + step * (point.ahead * point.across) + teams.lane(thread)
                    groups = [moves.hold(start + a * point.across) for a in range(point.ahead)]
                    inside = [tirx.all(row < planes, group < last) for group in groups]
                    for a, group in enumerate(groups):
                        with moves.when(inside[a]):
                            moves.either(
                                True if whole else (group + 1) * lanes <= elements,
                                lambda a=a, group=group: moves.read_vector(x, group, held[a], 0, lanes),
                                lambda a=a, group=group: _read_ragged(x, group, held[a], lanes, elements, program.dtype),
                            )
                    for a, group in enumerate(groups):
                        with moves.when(inside[a]):
                            for lane in range(lanes):
                                place = group * lanes + lane
                                with moves.when(True if exact else tirx.all(begin <= place, place < end)):
                                    sums.store(lane, sums[lane] + term(held[a][lane]))
                for lane in range(1, lanes):
                    sums.store(0, sums[0] + sums[lane])
                across.publish(thread, sums[0])
            across.thin()
            with moves.phase(teams.threads) as thread:
                row = teams.row(block, thread)
                with moves.when(tirx.all(row < planes, teams.lane(thread) == 0)):
                    found = across.read(thread)
                    mean = value(result, [moves.i64(0)] * len(result.shape), lambda tensor, index: found)
                    moves.Flat.of(result, buffers).store(row, mean)
    return function.primfunc


def _groups(begin: Expr, size: Expr, row: Expr, lanes: int, exact: bool) -> tuple[Expr, Expr]:
    """The first group that a plane touches and the one after its last."""
    if exact:
        groups = tirx.truncdiv(size, moves.i64(lanes))
        return row * groups, (row + 1) * groups
    return tirx.truncdiv(begin, moves.i64(lanes)), tirx.truncdiv(begin + size + (lanes - 1), moves.i64(lanes))


def _read_ragged(x: moves.Flat, group: Expr, held: moves.Registers, lanes: int, elements: Expr, dtype: str) -> None:
    """The last group of the tensor, which ends before its sixteen bytes do."""
    for lane in range(lanes):
        place = group * lanes + lane
        held.store(lane, moves.read_guarded(x, place, place < elements, dtype))
