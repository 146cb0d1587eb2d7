"""One scan of a sweep, walked: a step is up to three loops along a line, and where their values come from and go to.

`Rows` walks lines that lie in memory as they are; `Tiles` walks along the contiguous axis, and turns a few columns of every
tensor into lines on the way in and back on the way out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read
from treadle.schedules.cpu import scan_tasks
from treadle.schedules.cpu.scan_common import PAD, opaque
from treadle.schedules.cpu.scan_tasks import Task
from treadle.schedules.cpu.sweep_cell import Cell, key, place
from treadle.schedules.cpu.sweep_lines import along, pitch_of

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
        states: tirx.Var | None,
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
        with T.serial(0, self.task.members) as m:
            self._begin(m)
        self._walk()
        with T.serial(0, self.task.members) as m:
            self._end(m)

    def _walk(self) -> None:
        with T.serial(0, self.scan.steps) as step, T.serial(0, self.task.members) as m:
            self._step(step, m, tirx.const(0, "int64"))

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
        place_of = _Place(self, step, time, m, row, slot)
        if cell.early:
            with T.If(m == 0), T.Then():
                self._along(place_of.early, self._ahead([e.expr for e in cell.early], step, m))
        used = [cell.source, *cell.weights, *(e for _, e in cell.outputs)]
        self._along(place_of.main, self._ahead(used, step, m))
        if cell.after:
            with T.If(m == self.task.members - 1), T.Then():
                self._along(place_of.late)

    def _along(self, body: Callable[[Expr], None], before: Callable[[Expr], None] = lambda start: None) -> None:
        along(self.scan.width, self.task.lanes, self.scan.reverse, body, before)

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


class _Place:
    """The three loops of a step: expressions of the cell with their variables bound to what stands at a position."""

    def __init__(self, walk: Rows, step: Expr, time: Expr, m: Expr, row: Expr, slot: Expr) -> None:
        self.walk, self.step, self.time, self.m, self.row, self.slot = walk, step, time, m, row, slot
        self.scan, self.cell = walk.scan, walk.cell

    def early(self, j: Expr) -> None:
        kept = self._kept_index()
        held: dict[tirx.Var, Expr] = {}
        for made in self.cell.early:
            held[made.var] = T.bind(self._value(made.expr, j, held))
            if made.var in kept:
                T.buffer_store(self.walk.kept, held[made.var], [self._line(kept[made.var]), PAD + j])

    def main(self, j: Expr) -> None:
        walk, cell, held = self.walk, self.cell, self._held(j)
        before, here = (self.step + 1) % 2, self.step % 2
        total = self._value(cell.source, j, held)
        for i, (term, weight) in enumerate(zip(self.scan.terms, cell.weights, strict=True)):
            beside = PAD + j + term.offset
            if cell.pushed:
                total = ex.add(total, walk.carry[self.m, before, i, beside])
            else:
                total = ex.add(total, ex.mul(self._value(weight, j, held), walk.carry[self.m, before, 0, beside]))
        carry = T.bind(total)
        if cell.pushed:
            for i, weight in enumerate(cell.weights):
                T.buffer_store(walk.carry, self._value(weight, j, held) * carry, [self.m, here, i, PAD + j])
        else:
            T.buffer_store(walk.carry, carry, [self.m, here, 0, PAD + j])
        held[self.scan.carry] = carry
        for i, (output, expr) in enumerate(cell.outputs):
            self._give(i, output, self._value(expr, j, held), j)

    def late(self, j: Expr) -> None:
        held = self._held(j)
        for made in self.cell.late:
            held[made.var] = T.bind(self._value(made.expr, j, held))
        for output, expr in self.cell.after:
            self.walk._put(output, self._value(expr, j, held), self.time, self.m, j, self.row)

    def _give(self, number: int, output: Output, value: Expr, j: Expr) -> None:
        walk, name = self.walk, output.tensor.op.name
        if place(output, self.cell.at) in walk.inner:
            assert walk.given is not None
            at = [self.slot * len(self.cell.outputs) + number, PAD + j]
            T.buffer_store(walk.given, tirx.Select(self.m == 0, value, walk.given[*at] + value), at)
        elif output in walk.summed:
            assert walk.totals is not None
            at = [self.m * len(walk.summed) + walk.summed.index(output), j]
            T.buffer_store(walk.totals, walk.totals[*at] + value, at)
        elif name not in walk.results:
            assert walk.states is not None
            T.buffer_store(walk.states, value, [self.m, self.time, PAD + j])
        elif name in walk.sums:
            total = walk.sums[name]
            if total.turned is not None:
                value = walk._turned(name, self.step, self.time, self.m, j) + value
            elif not total.first:
                value = total.lines[self.m, self.time, j] + value
            if total.last:
                walk._put(output, value, self.time, self.m, j, self.row)
            else:
                T.buffer_store(total.lines, value, [self.m, self.time, j])
        else:
            walk._put(output, value, self.time, self.m, j, self.row)

    def _held(self, j: Expr) -> dict[tirx.Var, Expr]:
        return {v: self.walk.kept[self._line(i), PAD + j] for v, i in self._kept_index().items()}

    def _kept_index(self) -> dict[tirx.Var, int]:
        return {v: i for i, v in enumerate(self.cell.kept)}

    def _line(self, number: int) -> Expr:
        return self.slot * len(self.cell.kept) + number

    def _value(self, expr: Expr, j: Expr, held: Mapping[tirx.Var, Expr]) -> Expr:
        bound = {v: e for v, e in held.items() if ex.depends(expr, v)}
        bound |= {v: self._loaded(r, j) for v, r in self.cell.read_by(expr).items()}
        position = self.walk.task.position(self.m, self.time, j)
        return ex.substitute(expr, {**bound, **dict(zip(self.cell.at, position, strict=True))})

    def _loaded(self, read: Read, j: Expr) -> Expr:
        walk = self.walk
        number = walk.inner.get(key(read, self.cell.at))
        if number is not None:
            assert walk.given is not None
            return walk.given[self.slot * len(self.cell.outputs) + number, PAD + j]
        if read.tensor.op.name in walk.task.buffers:
            return walk._load(read, self.time, self.m, j, self.row)
        assert walk.states is not None
        line = self.time
        if read.back:  # the state before a step, which is zero where a chunk begins
            none = self.scan.ends(self.step)
            line = tirx.Select(none, self.scan.steps, self.scan.time(self.step - read.back))
        return walk.states[self.m, line, PAD + j + read.shift]


class Tiles(Rows):
    """A walk along the contiguous axis, in tiles of `columns` steps that are lines of scratch memory inside."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.staged: dict[str, tuple[tirx.Var, Read]] = {}
        for read in self.cell.loads.values():
            if self._follows(read):
                self.staged.setdefault(key(read, self.cell.at), (self._stage(), read))
        written = [o for o, _ in self.cell.outputs if self._leaves_tile(o)] + [o for o, _ in self.cell.after]
        self.leaving = {place(o, self.cell.at): (self._stage(), o) for o in written}

    def _leaves_tile(self, output: Output) -> bool:
        name = output.tensor.op.name
        kept = name in self.sums and not self.sums[name].last
        return name in self.results and not kept and not self._summed(output)

    def _stage(self) -> tirx.Var:
        return T.alloc_buffer((self.columns, self.pitch), CARRY)

    def _slots(self) -> Expr:
        """A group walks a tile position after position, with the gates of all its steps at hand; one alone needs no such room."""
        return tirx.Select(self.task.group == 1, tirx.const(1, "int64"), tirx.const(self.columns, "int64"))

    def _slot(self, row: Expr) -> Expr:
        return tirx.Select(self.task.group == 1, tirx.const(0, "int64"), row)

    def _walk(self) -> None:
        scan = self.scan
        with T.serial(0, tirx.ceildiv(scan.steps, self.columns)) as tile, T.serial(0, self.task.members) as m:
            for buffer, read in self.staged.values():
                with T.If(m == 0 if read.shared else tirx.const(True, "bool")), T.Then():
                    self._gather(buffer, read, tile, m)
            with T.serial(0, tirx.min(self.columns, scan.steps - tile * self.columns)) as i:
                step = opaque(tile * self.columns + i)
                self._step(step, m, opaque(scan.time(step) - self._start(tile)))
            late = [place(o, self.cell.at) for o, _ in self.cell.after]
            for name, (buffer, output) in self.leaving.items():
                with T.If(m == self.task.members - 1 if name in late else tirx.const(True, "bool")), T.Then():
                    self._scatter(buffer, output, tile, m)

    def _load(self, read: Read, time: Expr, m: Expr, j: Expr, row: Expr) -> Expr:
        if not self._follows(read):
            return super()._load(read, time, m, j, row)
        return self.staged[key(read, self.cell.at)][0][row, PAD + j]

    def _put(self, output: Output, value: Expr, time: Expr, m: Expr, j: Expr, row: Expr) -> None:
        T.buffer_store(self.leaving[place(output, self.cell.at)][0], value, [row, PAD + j])

    def _ahead(self, exprs: list[Expr], step: Expr, m: Expr) -> Callable[[Expr], None]:
        return lambda start: None  # tiles are asked for as they are gathered

    def _gather(self, buffer: tirx.Var, read: Read, tile: Expr, m: Expr) -> None:
        at, row, columns = self._clip(tile)
        source, pitch = self._memory(read, at, m)
        following = -self.columns if self.scan.reverse else self.columns
        hints = tirx.const(following, "int64"), tirx.const(self.hint, "int64")
        arguments = T.address_of(buffer[row, PAD]), self.pitch, source, pitch, self.scan.width, columns
        T.evaluate(T.call_extern("int32", f"treadle_gather_{read.tensor.dtype}", *arguments, *hints))

    def _scatter(self, buffer: tirx.Var, output: Output, tile: Expr, m: Expr) -> None:
        at, row, columns = self._clip(tile)
        target, pitch = self._memory(output, at, m)
        arguments = target, pitch, T.address_of(buffer[row, PAD]), self.pitch, self.scan.width, columns
        T.evaluate(T.call_extern("int32", f"treadle_scatter_{output.tensor.dtype}", *arguments, T.int32(0)))

    def _memory(self, end: Read | Output, time: Expr, m: Expr) -> tuple[Expr, Expr]:
        """The address of a tile's first element, and the elements from one of its rows to the next."""
        where = end.index(self.task.position(m, time, tirx.const(0, "int64")))
        at = self.cell.at
        dim = next(d for d, e in enumerate(end.index(at)) if ex.depends(e, at[self.scan.line]))
        return T.address_of(self.task.buffers[end.tensor.op.name][*where]), scan_tasks.product(end.tensor.shape[dim + 1 :])

    def _start(self, tile: Expr) -> Expr:
        """The lowest index along the walk among a tile's steps, whether it exists or not."""
        first = tile * self.columns
        return self.scan.steps - self.columns - first if self.scan.reverse else first

    def _clip(self, tile: Expr) -> tuple[Expr, Expr, Expr]:
        """The part of a tile that exists: its index along the walk, its first staging line, its columns."""
        start = self._start(tile)
        low = tirx.max(start, tirx.const(0, "int64"))
        return low, low - start, tirx.min(start + self.columns, self.scan.steps) - low
