"""One scan of a sweep, walked over lines that lie in memory as they are: scratch, steps, and where values come from and go to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read
from treadle.schedules.cpu.scan_common import PAD, opaque
from treadle.schedules.cpu.scan_tasks import Task
from treadle.schedules.cpu.sweep_cell import Cell, place
from treadle.schedules.cpu.sweep_lines import Spot, along, pitch_of
from treadle.schedules.cpu.sweep_states import Marks, States, Window
from treadle.schedules.cpu.sweep_step import Place

#: Lines of a sum that are turned round at once.
TURNED = 32


@dataclass(frozen=True)
class Sum:
    """What several scans write to one place: its lines so far, and whether this scan is the first or last to add to it.

    `turned` are the lines of the scans before, where those lie along the other axis.
    """

    lines: tirx.Var
    first: bool
    last: bool
    turned: tirx.Var | None


class Rows:
    """A walk over lines that are contiguous in memory."""

    def __init__(
        self, task: Task, cell: Cell, columns: int, ahead: int, results: set[str], sums: Mapping[str, Sum],
        states: States | Marks | Window | None,
    ) -> None:  # fmt: skip
        self.task, self.cell, self.scan, self.columns, self.hint = task, cell, cell.scan, columns, ahead
        self.results, self.sums, self.states = results, sums, states
        self.pitch = pitch_of(self.scan.width)
        group = task.group
        carried = len(self.scan.terms) if cell.pushed else 1
        self.carry = T.alloc_buffer((group, 2, carried, self.pitch), CARRY)
        self.slots = self._slots()
        self.kept = T.alloc_buffer((self.slots * max(1, len(cell.kept)), self.pitch), CARRY)
        self.inner = {place(o, cell.at): i for i, (o, _) in enumerate(cell.outputs) if cell.inner(o)}
        self.given = T.alloc_buffer((self.slots * max(1, len(cell.outputs)), self.pitch), CARRY) if self.inner else None
        self.summed = [o for o, _ in cell.outputs if self._summed(o)]
        self.totals = T.alloc_buffer((group * max(1, len(self.summed)), self.pitch), CARRY) if self.summed else None
        self.turning = {n: T.alloc_buffer((group, TURNED, self.pitch), CARRY) for n, s in sums.items() if s.turned is not None}

    def emit(self) -> None:
        self.begin()
        self.walk(tirx.const(0, "int64"), self.scan.steps)
        self.end()

    def begin(self) -> None:
        with T.serial(0, self.task.members) as m:
            self._begin(m)

    def walk(self, first: Expr, last: Expr) -> None:
        """The steps from `first` to before `last`."""
        with T.serial(first, last) as step, T.serial(0, self.task.members) as m:
            self._step(step, m, tirx.const(0, "int64"))

    def end(self) -> None:
        with T.serial(0, self.task.members) as m:
            self._end(m)

    def _slots(self) -> Expr:
        """Lines of gates that are alive at once: those of one step."""
        return tirx.const(1, "int64")

    # Where values come from and go to.

    def _load(self, read: Read, time: Expr, m: Expr, j: Expr, row: Expr) -> Expr:
        return self.task.buffers[read.tensor.op.name][*read.index(self.task.position(m, time, j))].astype(CARRY)

    def _put(self, output: Output, value: Expr, time: Expr, m: Expr, j: Expr, row: Expr) -> None:
        index = output.index(self.task.position(m, time, j))
        T.buffer_store(self.task.buffers[output.tensor.op.name], value.astype(str(output.tensor.dtype)), list(index))

    def _ahead(self, exprs: list[Expr], step: Expr, m: Expr) -> Callable[[Expr], None]:
        """Ask for the next line of what is read: rows of all tensors are too many for the hardware to follow."""
        streams = [r for r in self.cell.read_by(*exprs).values() if self._follows(r)]
        later = self.scan.time(tirx.min(step + 1, self.scan.steps - 1))

        def ask(start: Expr) -> None:
            for read in streams:
                element = self.task.buffers[read.tensor.op.name][*read.index(self.task.position(m, later, start))]
                hint = T.int32(0), T.int32(2), T.int32(1)
                T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", T.address_of(element), *hint))

        return ask

    # One step: scalars from memory, the scan itself, what follows from it.

    def _step(self, step: Expr, m: Expr, row: Expr) -> None:
        scan, cell = self.scan, self.cell
        time, slot = opaque(scan.time(step)), self._slot(row)
        with T.If(tirx.any(step == 0, scan.starts(step))), T.Then():
            carried = len(scan.terms) if cell.pushed else 1
            with T.serial(0, carried) as i, T.serial(0, scan.width) as j:
                T.buffer_store(self.carry, tirx.const(0.0, CARRY), [m, (step + 1) % 2, i, PAD + j])
        self._turn(step, time, m)
        here = Place(self, step, time, m, row, slot)
        if cell.early:
            with T.If(m == 0), T.Then():
                self._along(here.early, self._ahead([e.expr for e in cell.early], step, m), cell.reach, len(cell.early))
        used = [cell.source, *cell.weights, *(e for _, e in cell.outputs)]
        self._along(here.main, self._ahead(used, step, m))
        if cell.after:
            with T.If(m == self.task.members - 1), T.Then():
                self._along(here.late, reach=cell.reach, scalars=len(cell.late))

    def _along(
        self, body: Callable[[Spot], None], before: Callable[[Expr], None] = lambda start: None, reach: int = 0, scalars: int = 0
    ) -> None:
        along(self.scan.width, self.task.lanes, self.scan.reverse, body, before, reach, scalars)

    def _slot(self, row: Expr) -> Expr:
        return tirx.const(0, "int64")

    def _begin(self, m: Expr) -> None:
        carried = len(self.scan.terms) if self.cell.pushed else 1
        with T.serial(0, 2) as parity, T.serial(0, carried) as i, T.serial(0, self.pitch) as j:
            T.buffer_store(self.carry, tirx.const(0.0, CARRY), [m, parity, i, j])
        if self.totals is not None:
            with T.serial(0, len(self.summed)) as i, T.serial(0, self.scan.width) as j:
                T.buffer_store(self.totals, tirx.const(0.0, CARRY), [m * len(self.summed) + i, j])

    def _end(self, m: Expr) -> None:
        for i, output in enumerate(self.summed):
            assert self.totals is not None
            whole = T.alloc_buffer((1,), "float64", scope="local")
            T.buffer_store(whole, tirx.const(0.0, "float64"), [0])
            with T.serial(0, self.scan.width) as j:
                T.buffer_store(whole, whole[0] + self.totals[m * len(self.summed) + i, j].astype("float64"), [0])
            zero_at = tirx.const(0, "int64")
            self._memory_store(output, whole[0].astype(CARRY), m, zero_at)

    def _memory_store(self, output: Output, value: Expr, m: Expr, zero_at: Expr) -> None:
        index = output.index(self.task.position(m, zero_at, zero_at))
        T.buffer_store(self.task.buffers[output.tensor.op.name], value.astype(str(output.tensor.dtype)), list(index))

    def _turn(self, step: Expr, time: Expr, m: Expr) -> None:
        """Every few lines, turn round the next ones of a sum whose lines so far lie across."""
        for name, into in self.turning.items():
            lines = self.sums[name].turned
            assert lines is not None
            across = pitch_of(self.scan.steps)
            with T.If(step % TURNED == 0), T.Then():
                low = opaque(self._low(step, time))
                count = tirx.min(tirx.const(TURNED, "int64"), self.scan.steps - step)
                arguments = T.address_of(into[m, 0, 0]), self.pitch, T.address_of(lines[m, 0, low]), across, self.scan.width, count
                none = tirx.const(0, "int64"), tirx.const(0, "int64")
                T.evaluate(T.call_extern("int32", "treadle_gather_float32", *arguments, *none))

    def _low(self, step: Expr, time: Expr) -> Expr:
        """The lowest line of the turned ones that a step belongs to."""
        return tirx.max(time - (TURNED - 1), tirx.const(0, "int64")) if self.scan.reverse else time

    def _turned(self, name: str, step: Expr, time: Expr, m: Expr, j: Expr) -> Expr:
        first = step - step % TURNED
        return self.turning[name][m, time - self._low(first, self.scan.time(first)), j]

    def _follows(self, read: Read) -> bool:
        """Whether a read walks over memory: neither the sweep's own, nor the same for all positions."""
        at = self.cell.at
        moves = any(ex.depends(i, at[self.scan.line]) for i in read.index(at))
        return read.tensor.op.name in self.task.buffers and moves

    def _summed(self, output: Output) -> bool:
        at = self.cell.at
        return not any(ex.depends(i, at[a]) for i in output.index(at) for a in (self.scan.line, self.scan.axis))
