"""One scan of a sweep, walked along the contiguous axis: a few columns of every tensor are turned into lines of scratch memory
on the way in, and back on the way out; inside it is the walk over lines."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read
from treadle.schedules.cpu import scan_tasks
from treadle.schedules.cpu.scan_common import PAD, opaque
from treadle.schedules.cpu.sweep_cell import key, place
from treadle.schedules.cpu.sweep_walk import Rows


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

    def walk(self, first: Expr, last: Expr) -> None:
        scan = self.scan
        with T.serial(0, tirx.ceildiv(last - first, self.columns)) as tile, T.serial(0, self.task.members) as m:
            begin = opaque(first + tile * self.columns)
            for buffer, read in self.staged.values():
                with T.If(m == 0 if read.shared else tirx.const(True, "bool")), T.Then():
                    self._gather(buffer, read, begin, m)
            with T.serial(0, tirx.min(self.columns, last - begin)) as i:
                step = opaque(begin + i)
                self._step(step, m, opaque(scan.time(step) - self._start(begin)))
            late = [place(o, self.cell.at) for o, _ in self.cell.after]
            for name, (buffer, output) in self.leaving.items():
                with T.If(m == self.task.members - 1 if name in late else tirx.const(True, "bool")), T.Then():
                    self._scatter(buffer, output, begin, m)

    def _load(self, read: Read, time: Expr, m: Expr, j: Expr, row: Expr) -> Expr:
        if not self._follows(read):
            return super()._load(read, time, m, j, row)
        return self.staged[key(read, self.cell.at)][0][row, PAD + j]

    def _put(self, output: Output, value: Expr, time: Expr, m: Expr, j: Expr, row: Expr) -> None:
        T.buffer_store(self.leaving[place(output, self.cell.at)][0], value, [row, PAD + j])

    def _ahead(self, exprs: list[Expr], step: Expr, m: Expr) -> Callable[[Expr], None]:
        return lambda start: None  # tiles are asked for as they are gathered

    def _gather(self, buffer: tirx.Var, read: Read, begin: Expr, m: Expr) -> None:
        at, row, columns = self._clip(begin)
        source, pitch = self._memory(read, at, m)
        following = -self.columns if self.scan.reverse else self.columns
        hints = tirx.const(following, "int64"), tirx.const(self.hint, "int64")
        arguments = T.address_of(buffer[row, PAD]), self.pitch, source, pitch, self.scan.width, columns
        T.evaluate(T.call_extern("int32", f"treadle_gather_{read.tensor.dtype}", *arguments, *hints))

    def _scatter(self, buffer: tirx.Var, output: Output, begin: Expr, m: Expr) -> None:
        at, row, columns = self._clip(begin)
        target, pitch = self._memory(output, at, m)
        arguments = target, pitch, T.address_of(buffer[row, PAD]), self.pitch, self.scan.width, columns
        T.evaluate(T.call_extern("int32", f"treadle_scatter_{output.tensor.dtype}", *arguments, T.int32(0)))

    def _memory(self, end: Read | Output, time: Expr, m: Expr) -> tuple[Expr, Expr]:
        """The address of a tile's first element, and the elements from one of its rows to the next."""
        where = end.index(self.task.position(m, time, tirx.const(0, "int64")))
        at = self.cell.at
        dim = next(d for d, e in enumerate(end.index(at)) if ex.depends(e, at[self.scan.line]))
        return T.address_of(self.task.buffers[end.tensor.op.name][*where]), scan_tasks.product(end.tensor.shape[dim + 1 :])

    def _start(self, begin: Expr) -> Expr:
        """The lowest index along the walk among the steps of the tile that begins with a step, whether it exists or not."""
        return self.scan.steps - self.columns - begin if self.scan.reverse else begin

    def _clip(self, begin: Expr) -> tuple[Expr, Expr, Expr]:
        """The part of a tile that exists: its index along the walk, its first staging line, its columns."""
        start = self._start(begin)
        low = tirx.max(start, tirx.const(0, "int64"))
        return low, low - start, tirx.min(start + self.columns, self.scan.steps) - low
