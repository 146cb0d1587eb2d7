"""Block rows: a few rows to a block, a team of threads to a row.

Mean, then the variance of what is centred and how far its own mean is from zero (what the mean lost to rounding in float32
comes off the result), then the result: three walks over a row. Moves:

1. *hold the row* in registers where its length is known, so that the three walks cross the bus once; otherwise the second
   and third walk find it in L2, whose 50 MB hold the rows in flight thousands of times.
2. *16-byte accesses* where rows are multiples of 16 bytes (known, or asked once by a branch that the whole grid takes
   together), otherwise neighbouring lanes take neighbouring elements; all loads of a held row start before the first sum.
3. *sum through shared memory* in phases: three barriers for all sums (four above 32 threads a row), and every thread has
   the total without asking for it.
4. *several rows to a block*: narrow rows still make blocks of 256 threads, and weight and bias come from L1 for all but one.

Floor: x read once, y written once. Arithmetic: one IEEE division per element, about 9 instructions of some 23, where a bf16
element has 34 issue slots at 3.35 TB/s. Predicted: 85 to 90 % of copy bandwidth held, 65 to 75 % with unknown C; nothing
was timed.

Compiler (sm_90a, nvcc 13.0, 2026-11-24): C = 1152: 76 registers and 2,304 bytes of shared memory in fp32, 124 and 2,048 in
bf16, five loads and five stores of 16 bytes; unknown C: 48 and 63, both paths in one kernel; no spills.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.expr import Expr
from treadle.schedules import cuda_moves as moves
from treadle.schedules.emit import Function, value, without_rest
from treadle.schedules.space import knob
from treadle.schedules.target import Target

SERIAL = True


@dataclass(frozen=True)
class Knobs:
    across: int = knob(128, (8, 16, 32, 64, 128, 256, 512, 1024), "threads to a row: a divisor of its accesses, or lanes idle")
    rows: int = knob(2, (1, 2, 4, 8, 16, 32), "rows to a block: narrow rows would leave it with too few threads")
    held: bool = knob(False, (False, True), "whether a row stays in registers between the passes")
    access: int = knob(16, (2, 4, 8, 16), "bytes of one access")


def applies(program: Program) -> bool:
    return program.name == "norm.layer_norm"


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    features = program.args[0].shape[1]
    lanes, size = moves.elements_of(point.access, program.dtype), dm.constant(features)
    reasons = moves.access_refusals(program, point.access) + moves.Teams(point.across, point.rows).refusals()
    if lanes > 1 and moves.never_divides(lanes, features):
        reasons.append(f"rows of {size} elements are no multiple of the {lanes} that an access of {point.access} bytes moves")
    if point.held and size is None:
        reasons.append("C is not known at compile time, so a row cannot be held in registers")
    elif point.held:
        kept = _registers(size, lanes, point.across, program.dtype)
        reasons += moves.register_refusals(target, point.across * point.rows, kept)
    return reasons


def default(program: Program, target: Target) -> Knobs:
    features = program.args[0].shape[1]
    access, size = moves.widest(program, features), dm.constant(features)
    if size is None:
        return Knobs(access=access)
    lanes = moves.elements_of(access, program.dtype)
    accesses = -(-size // lanes)
    # The narrowest team that wastes the least, at most 8 accesses to a thread; the widest where even that is not enough.
    fits = [a for a in (8, 16, 32, 64, 128, 256, 512, 1024) if -(-accesses // a) <= 8]
    across = min(fits, key=lambda a: (-(-accesses // a) * a, a), default=1024)
    rows = max(1, min(32, 256 // across))
    held = not moves.register_refusals(target, across * rows, _registers(size, lanes, across, program.dtype))
    return Knobs(across=across, rows=rows, held=held, access=access)


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    x, *_ = program.args
    (result,) = program.results
    total, square = moves.stages(result)
    teams = moves.Teams(point.across, point.rows)
    function = Function(program)
    with function as buffers:
        first, second, third = (moves.TeamSum(teams) for _ in range(3))
        kept = T.sblock_alloc_buffer((teams.threads, 1), "float32", scope="local")
        walk = _Walk(program, buffers, point, teams)
        with moves.blocks(tirx.ceildiv(x.shape[0], moves.i64(point.rows))) as block:
            with walk.row(block) as row:
                (plain,) = row.sums(lambda element: moves.summand(total, lambda tensor, index: element), fresh=True)
                first.publish(row.thread, plain)
            first.thin()
            with walk.row(block) as row:
                sum_of_row = moves.Registers(kept, (row.thread,))
                sum_of_row.store(0, first.read(row.thread))

                def centred(element: Expr) -> Expr:
                    return moves.summand(square, lambda tensor, index: element if tensor == x else sum_of_row[0])

                def drift(element: Expr) -> Expr:
                    return element.astype("float32") - sum_of_row[0] / walk.features.astype("float32")

                squares, drifts = row.sums(centred, drift)
                second.publish(row.thread, squares)
                third.publish(row.thread, drifts)
            second.thin()
            third.thin()
            with walk.row(block) as row:
                sums = moves.Registers.private(2, "float32")
                for slot, team_sum in enumerate((second, third)):
                    sums.store(slot, team_sum.read(row.thread))
                stages = {total: moves.Registers(kept, (row.thread,))[0], square: sums[0]}

                def normalised(elements: dict[te.Tensor, Expr]) -> Expr:
                    plain = value(result, [moves.i64(0)] * 2, lambda tensor, index: {**elements, **stages}[tensor])
                    return without_rest(plain, lambda total, count: sums[1] / count)

                row.write(normalised)
    return function.primfunc


def _registers(size: int, lanes: int, across: int, dtype: str) -> int:
    """Registers of a thread that its part of a row fills."""
    return -(-size // (lanes * across)) * lanes * find_dtype(dtype).itemsize // 4


class _Walk:
    """How a block walks over its rows: in steps of `lanes` elements for each thread of a team."""

    def __init__(self, program: Program, buffers: dict[str, tirx.Var], point: Knobs, teams: moves.Teams) -> None:
        self.program, self.teams = program, teams
        self.flat = {t: moves.Flat.of(t, buffers) for t in (*program.args, *program.results)}
        self.rows, self.features = program.args[0].shape
        self.lanes = moves.elements_of(point.access, program.dtype)
        self.steps = dm.simplify(tirx.ceildiv(self.features, moves.i64(self.lanes * teams.across)))
        self.held = None
        if point.held:
            shape = (teams.threads, dm.constant(self.steps) * self.lanes)
            self.held = T.sblock_alloc_buffer(shape, program.dtype, scope="local")

    @contextmanager
    def row(self, block: Expr) -> Iterator[_Row]:
        """A phase, in which each thread stands in its row."""
        with moves.phase(self.teams.threads) as thread:
            yield _Row(self, self.teams.row(block, thread), thread)


class _Row:
    """One thread's part of one row, in one phase."""

    def __init__(self, walk: _Walk, row: Expr, thread: Expr) -> None:
        self.walk, self.index, self.thread = walk, row, thread
        self._x, self._weight, self._bias = walk.program.args

    def sums(self, *terms: Callable[[Expr], Expr], fresh: bool = False) -> list[Expr]:
        """Each term added up over this thread's elements, lane by lane; `fresh` reads a row that is to be held."""
        walk = self.walk
        sums = [moves.Registers.private(walk.lanes, "float32") for _ in terms]
        for total in sums:
            for lane in range(walk.lanes):
                total.store(lane, moves.f32(0.0))

        def add(place: _Place, wide: bool) -> None:
            held, slot = self._elements(place, wide)
            for lane in range(walk.lanes):
                with moves.when(True if wide else place.exists(lane)):
                    for total, term in zip(sums, terms, strict=True):
                        total.store(lane, total[lane] + term(held[slot + lane]))

        if fresh and walk.held is not None:
            self._each(lambda place, wide: self._read(self._x, place, wide, *self._kept(place)))
        self._each(add)
        for total in sums:
            for lane in range(1, walk.lanes):
                total.store(0, total[0] + total[lane])
        return [total[0] for total in sums]

    def write(self, element: Callable[[dict[te.Tensor, Expr]], Expr]) -> None:
        (result,), lanes = self.walk.program.results, self.walk.lanes

        def store(place: _Place, wide: bool) -> None:
            held, slot = self._elements(place, wide)
            others = {t: moves.Registers.private(lanes, self.walk.program.dtype) for t in (self._weight, self._bias)}
            for tensor, registers in others.items():
                self._read(tensor, place, wide, registers, 0)
            out = moves.Registers.private(lanes, self.walk.program.dtype)
            for lane in range(lanes):
                out.store(lane, element({self._x: held[slot + lane], **{t: r[lane] for t, r in others.items()}}))
            target = self.walk.flat[result]
            if wide:
                moves.write_vector(target, place.group(self.index), out, 0, lanes)
                return
            for lane in range(lanes):
                with moves.when(place.exists(lane)):
                    target.store(place.element(self.index, lane), out[lane])

        self._each(store)

    def _each(self, visit: Callable[[_Place, bool], None]) -> None:
        """Visit every step: as 16-byte groups where rows are multiples of them, else as elements one team apart."""
        walk = self.walk

        def sweep(wide: bool) -> None:
            def step(number: Expr | int) -> None:
                place = _Place(walk, number, walk.teams.lane(self.thread))
                with moves.when(place.whole() if wide else True):
                    visit(place, wide)

            if walk.held is not None:
                for number in range(dm.constant(walk.steps)):
                    step(number)
            else:
                with T.serial(moves.i64(0), walk.steps) as number:
                    step(number)

        with moves.when(self.index < walk.rows):
            moves.either(moves.divides(walk.lanes, walk.features), lambda: sweep(True), lambda: sweep(False))

    def _elements(self, place: _Place, wide: bool) -> tuple[moves.Registers, int]:
        """Where the elements of x at a place are: held since the first walk, or read again."""
        if self.walk.held is not None:
            return self._kept(place)
        registers = moves.Registers.private(self.walk.lanes, self.walk.program.dtype)
        self._read(self._x, place, wide, registers, 0)
        return registers, 0

    def _kept(self, place: _Place) -> tuple[moves.Registers, int]:
        return moves.Registers(self.walk.held, (self.thread,)), place.number * self.walk.lanes

    def _read(self, tensor: te.Tensor, place: _Place, wide: bool, into: moves.Registers, slot: int) -> None:
        source, row = self.walk.flat[tensor], self.index if tensor == self._x else moves.i64(0)
        if wide:
            moves.read_vector(source, place.group(row), into, slot, self.walk.lanes)
            return
        for lane in range(self.walk.lanes):
            element = moves.read_guarded(source, place.element(row, lane), place.exists(lane), self.walk.program.dtype)
            into.store(slot + lane, element)


@dataclass(frozen=True)
class _Place:
    """The elements of one thread in one step of the walk along a row."""

    walk: _Walk
    number: Expr | int
    thread: Expr

    def whole(self) -> Expr | bool:
        """Whether the group of this step exists: known for all but the last of a row of known size."""
        size = dm.constant(self.walk.features)
        if size is not None and isinstance(self.number, int) and (self.number + 1) * self._stride <= size:
            return True
        return (self.number * self.walk.teams.across + self.thread) * self.walk.lanes < self.walk.features

    def exists(self, lane: int) -> Expr:
        return self._column(lane) < self.walk.features

    def group(self, row: Expr) -> Expr:
        groups = tirx.truncdiv(self.walk.features, moves.i64(self.walk.lanes))
        return moves.hold(row * groups + self.number * self.walk.teams.across + self.thread)

    def element(self, row: Expr, lane: int) -> Expr:
        return row * self.walk.features + self._column(lane)

    def _column(self, lane: int) -> Expr:
        return (self.number * self.walk.lanes + lane) * self.walk.teams.across + self.thread

    @property
    def _stride(self) -> int:
        return self.walk.teams.across * self.walk.lanes
