"""Stages of a chunk, kept on one core: where their elements lie, and the loops that fill them.

A stage has places (i, j), or places (j) alone, of one chunk and head. It is kept as its readers want it:

    panels    `width` columns side by side, one row after another: what the micro-kernel multiplies by, step by step
    turned    panels of the transposed stage: its rows are the columns that somebody multiplies by
    plain     row after row: what the micro-kernel broadcasts, element by element

Everything is 0 at first, so that columns beyond the last stay 0, and whole vectors may be used wherever memory is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr, depends, substitute
from treadle.schedules.cpu.micro_kernel import multiply
from treadle.schedules.cpu.operands import ceildiv
from treadle.schedules.emit import at, value

Index = Sequence[Expr]


@dataclass(frozen=True)
class Tile:
    """The register tile of the products."""

    rows: int
    vectors: int
    lanes: int

    @property
    def width(self) -> int:
        return self.vectors * self.lanes

    def room(self, size: Expr | int) -> Expr:
        """Elements along an axis of so many, with what a last tile reaches beyond it."""
        return ceildiv(size + (self.rows - 1), self.width) * self.width


class Held:
    """A stage in memory of its own."""

    def __init__(self, stage: te.Tensor, axes: int, forms: set[str], tile: Tile, count: Expr | int = 1) -> None:
        self.axes, self.tile, self.dtype = axes, tile, str(stage.dtype)
        self.sizes = list(stage.shape)[len(stage.shape) - axes :]
        room = [tile.room(s) for s in self.sizes]
        self.room = room
        total = room[0] if axes == 1 else room[0] * room[1] if axes else tirx.const(tile.width, "int64")
        self.total = total
        self.count = count
        self.buffers = {form: T.alloc_buffer((total * count,), self.dtype) for form in sorted(forms)}

    def clear(self) -> None:
        for buffer in self.buffers.values():
            with T.serial(0, ceildiv(self.total * self.count, self.tile.width)) as v, T.vectorized(0, self.tile.width) as lane:
                T.buffer_store(buffer, tirx.const(0, self.dtype), [v * self.tile.width + lane])

    def place(self, form: str, i: Expr, panel: Expr, lane: Expr) -> Expr:
        """Where row i, column panel * width + lane is; `i` of a stage of one axis does not matter."""
        width = self.tile.width
        if self.axes < 2:
            return panel * width + lane
        if form == "panels":
            return panel * (self.room[0] * width) + i * width + lane
        if form == "plain":
            return i * self.room[1] + panel * width + lane
        return tirx.floordiv(i, width) * (self.room[1] * width) + (panel * width + lane) * width + tirx.floormod(i, width)

    def best(self) -> str:
        return next(form for form in ("panels", "plain", "turned") if form in self.buffers)

    def read(self, index: Index, split: Callable[[Expr], tuple[Expr, Expr]]) -> Expr:
        """The element at an index of its own axes; `split` parts a column into panel and lane."""
        form = self.best()
        if self.axes == 0:
            return self.buffers[form][0]
        i = index[0] if self.axes == 2 else tirx.const(0, "int64")
        return self.buffers[form][self.place(form, i, *split(index[-1]))]


def factors(stage: te.Tensor) -> tuple[tuple[te.Tensor, str], tuple[te.Tensor, str]] | None:
    """(row factor, column factor), each with the form it is read in, where the stage is a product of two others."""
    body = stage.op.body[0]
    if not isinstance(body, tirx.Reduce) or not isinstance(body.source[0], tirx.Mul) or len(body.axis) != 1:
        return None
    loads = [body.source[0].a, body.source[0].b]
    if len(stage.op.axis) < 4 or any(getattr(getattr(e, "op", None), "name", "") != "te.tensor_load" for e in loads):
        return None
    column = stage.op.axis[-1].var
    if depends(loads[0], column) == depends(loads[1], column):
        return None
    left, right = reversed(loads) if depends(loads[0], column) else loads
    return (left.args[0], "plain"), (right.args[0], "panels" if right.args[-1].same_as(column) else "turned")


class Slots(Held):
    """The same stage of several heads."""

    def __init__(self, stage: te.Tensor, count: Expr | int, tile: Tile) -> None:
        super().__init__(stage, 2, {"panels"}, tile, count)
        self.slot: Expr = tirx.const(0, "int64")

    def place(self, form: str, i: Expr, panel: Expr, lane: Expr) -> Expr:
        return self.slot * self.total + super().place(form, i, panel, lane)


class Stages:
    """The stages of one chunk and head under evaluation."""

    def __init__(self, tile: Tile, buffers: Mapping[str, tirx.Var], swap: Mapping[str, Callable[[Index], Expr]]) -> None:
        """`swap` answers for arguments whose value at an index is known, by name."""
        self.tile, self.buffers, self.swap = tile, buffers, swap
        self.held: dict[str, Held] = {}
        self._touched = False

    def hold(self, stages: Mapping[str, te.Tensor], axes: Mapping[str, int], copied: Sequence[str] = ()) -> None:
        """Make room for the stages named, each in the forms in which products read it; panels of those that are copied."""
        wanted: dict[str, set[str]] = {name: {"panels"} if name in copied else set() for name in axes}
        for stage in stages.values():
            for source, form in factors(stage) or ():
                wanted[source.op.name].add(form)
        for name, count in axes.items():
            self.held[name] = Held(stages[name], count, wanted[name] or {"panels"}, self.tile)

    def clear(self) -> None:
        for held in {id(h): h for h in self.held.values()}.values():
            held.clear()

    # -- reading ------------------------------------------------------------------------------------------------------------
    def scalar(self, tensor: te.Tensor, index: Index, column: Expr | None = None, body: Expr | None = None) -> Expr:
        """The value of a stage at an index, a term of it with `body`; `column`, a fresh symbol, stands for panel and lane."""
        panel, lane, width = tirx.Var("panel", "int64"), tirx.Var("lane", "int64"), self.tile.width
        self._panel, self._lane = panel, lane

        def split(j: Expr) -> tuple[Expr, Expr]:
            if column is not None and j.same_as(column):
                return panel, lane
            return tirx.floordiv(j, width), tirx.floormod(j, width)

        def load(source: te.Tensor, where: Index) -> Expr:
            name = source.op.name
            if name in self.held:
                held = self.held[name]
                return held.read(list(where)[len(where) - held.axes :], split)
            if name in self.swap:
                return self.swap[name](where)
            if isinstance(source.op, te.PlaceholderOp):
                if column is not None and any(depends(w, column) for w in where):
                    self._touched = True
                return self.buffers[name][*where]
            return value(source, list(where), load)

        self._touched = False
        found = value(tensor, index, load) if body is None else at(body, [], [], load)
        return _chosen_late(found)

    def loops(
        self, element: Expr, column: tirx.Var, panels: Expr, size: Expr, store: Callable[[Expr, Expr, Expr], None],
        edges: bool = False,
    ) -> None:  # fmt: skip
        """Evaluate `element` over panels of columns: by vectors, where memory is read only as far as it goes."""
        symbols, width = (self._panel, self._lane), self.tile.width

        def visit(panel: Expr, lane: Expr) -> None:
            bound = {column: panel * width + lane, symbols[0]: panel, symbols[1]: lane}
            store(substitute(element, bound), panel, lane)

        if not (self._touched or edges):
            with T.serial(0, panels) as panel, T.vectorized(0, width) as lane:
                visit(panel, lane)
            return
        with T.serial(0, panels) as panel, T.If(panel * width + width <= size):
            with T.Then(), T.vectorized(0, width) as lane:
                visit(panel, lane)
            with T.Else(), T.serial(0, size - panel * width) as lane:
                visit(panel, lane)

    def edges(self, element: Expr, column: tirx.Var, size: Expr, store: Callable[[Expr, Expr, Expr], None]) -> None:
        """The same for what is stored to memory, which ends where its columns do."""
        self.loops(element, column, ceildiv(size, self.tile.width), size, store, edges=True)

    # -- filling ------------------------------------------------------------------------------------------------------------
    def fill(
        self, stage: te.Tensor, lead: Index, rows: Expr | None = None, limit: Callable[[Expr], Expr] | None = None
    ) -> None:
        """Evaluate a held stage element by element; `limit` says how many columns of a row anybody reads."""
        held = self.held[stage.op.name]
        column, width = tirx.Var("column", "int64"), self.tile.width
        if held.axes == 1:
            element = self.scalar(stage, [*lead, column], column)
            size = held.sizes[0]
            if self._touched:  # a vector of the steps of one head would be gathered
                (buffer,) = held.buffers.values()
                with T.serial(0, size) as i:
                    T.buffer_store(buffer, substitute(element, {column: i, **self._parts(i)}), [i])
                return
            self.loops(
                element,
                column,
                ceildiv(size, width),
                size,
                lambda e, panel, lane: self._store(held, e, tirx.const(0, "int64"), panel, lane),
            )
            return
        assert rows is not None
        with T.serial(0, rows) as i:
            element = self.scalar(stage, [*lead, i, column], column)
            columns = held.sizes[1] if limit is None else limit(i)
            self.loops(
                element, column, ceildiv(columns, width), held.sizes[1],
                lambda e, panel, lane: self._store(held, e, i, panel, lane),
            )  # fmt: skip

    def _store(self, held: Held, element: Expr, i: Expr, panel: Expr, lane: Expr) -> None:
        first, *others = held.buffers
        T.buffer_store(held.buffers[first], element, [held.place(first, i, panel, lane)])
        for form in others:
            again = held.buffers[first][held.place(first, i, panel, lane)]
            T.buffer_store(held.buffers[form], again, [held.place(form, i, panel, lane)])

    def _parts(self, i: Expr) -> dict[tirx.Var, Expr]:
        return {self._panel: tirx.floordiv(i, self.tile.width), self._lane: tirx.floormod(i, self.tile.width)}

    def product(
        self, stage: te.Tensor, rows: Expr, columns: Expr, steps: Callable[[Expr], tuple[Expr, Expr]], lower: bool = False
    ) -> None:
        """A held stage that is a product of two others; `steps(row)` of the tile that begins there count, of `lower` ones
        only tiles on and below the diagonal."""
        found = factors(stage)
        assert found is not None
        (left, _), (right, form) = found
        tile, out = self.tile, self.held[stage.op.name]
        a, b = self.held[left.op.name], self.held[right.op.name]
        body = stage.op.body[0]
        step_last = (
            next(e for e in (body.source[0].a, body.source[0].b) if e.args[0].same_as(left)).args[-1].same_as(body.axis[0].var)
        )
        with T.serial(0, ceildiv(columns, tile.width)) as panel, T.serial(0, ceildiv(rows, tile.rows)) as t:
            row = T.bind(t * tile.rows)

            def emit() -> None:
                begin, end = (T.bind(s) for s in steps(row))
                base = T.bind(panel * (b.room[0 if form == "panels" else 1] * tile.width) + begin * tile.width)

                def scalar(i: int, k: Expr) -> Expr:
                    where = (row + i, begin + k) if step_last else (begin + k, row + i)
                    return a.buffers["plain"][where[0] * a.room[1] + where[1]]

                multiply(
                    tile.rows, tile.vectors, tile.lanes, end - begin, scalar,
                    lambda k: (b.buffers[form], base + k * tile.width),
                    (out.buffers["panels"], panel * (out.room[0] * tile.width) + row * tile.width),
                    tirx.const(True, "bool"),
                )  # fmt: skip

            if lower:
                with T.If(panel * tile.width < row + tile.rows), T.Then():
                    emit()
            else:
                emit()

    def running(self, stage: te.Tensor, lead: Index, count: Expr | None = None) -> None:
        """A sum over the places on one side of each place: one pass with one sum. Its term is chosen by j <= i, j < i or j >= i."""
        held, body = self.held[stage.op.name], stage.op.body[0]
        choice, axis = body.source[0], body.axis[0].var
        assert isinstance(choice, tirx.Select)
        kind = type(choice.condition).__name__
        (buffer,) = held.buffers.values()
        size, here = held.sizes[0] if count is None else count, tirx.Var("here", "int64")
        bound = dict(zip((a.var for a in stage.op.axis), [*lead, here], strict=True)) | {axis: here}
        term = self.scalar(stage, [], body=substitute(choice.true_value, bound))
        total = T.alloc_buffer((1,), held.dtype, scope="local")
        T.buffer_store(total, tirx.const(0, held.dtype), [0])
        with T.serial(0, size) as n:
            i = T.bind(size - 1 - n if kind == "GE" else n)
            added = total[0] + substitute(term, {here: i})
            if kind == "LT":
                T.buffer_store(buffer, total[0], [i])
                T.buffer_store(total, added, [0])
            else:
                T.buffer_store(total, added, [0])
                T.buffer_store(buffer, total[0], [i])

    def total(self, stage: te.Tensor, lead: Index, rows: Expr, columns: Expr, over: str) -> None:
        """A held sum over the `columns` of each row, the `rows` of each column, or `both`, of terms of two axes."""
        held, body, width = self.held[stage.op.name], stage.op.body[0], self.tile.width
        (buffer,) = held.buffers.values()
        column = tirx.Var("column", "int64")
        own, reduced = [a.var for a in stage.op.axis], [a.var for a in body.axis]
        sums = T.alloc_buffer((width,), held.dtype, scope="local")

        def clear() -> None:
            with T.vectorized(0, width) as lane:
                T.buffer_store(sums, tirx.const(0, held.dtype), [lane])

        def term(i: Expr) -> Expr:
            axes = {"columns": [i], "rows": [column], "both": []}[over]
            sides = {"columns": [column], "rows": [i], "both": [i, column]}[over]
            bound = dict(zip((*own, *reduced), (*lead, *axes, *sides), strict=True))
            return self.scalar(stage, [], column, substitute(body.source[0], bound))

        def add(e: Expr, lane: Expr) -> None:
            T.buffer_store(sums, sums[lane] + e, [lane])

        def across(to: Expr | int) -> None:
            with T.serial(1, width) as lane:
                T.buffer_store(sums, sums[0] + sums[lane], [0])
            T.buffer_store(buffer, sums[0], [to])

        if over == "rows":
            with T.serial(0, ceildiv(columns, width)) as panel:
                clear()
                with T.serial(0, rows) as i:
                    element = term(i)
                    assert not self._touched
                    bound = {self._panel: panel}
                    with T.vectorized(0, width) as lane:
                        add(substitute(element, {**bound, self._lane: lane, column: panel * width + lane}), lane)
                with T.vectorized(0, width) as lane:
                    T.buffer_store(buffer, sums[lane], [panel * width + lane])
            return
        if over == "both":
            clear()
        with T.serial(0, rows) as i:
            if over == "columns":
                clear()
            self.loops(term(i), column, ceildiv(columns, width), columns, lambda e, _, lane: add(e, lane))
            if over == "columns":
                across(i)
        if over == "both":
            across(0)


def _chosen_late(e: Expr) -> Expr:
    """Evaluate what a Select chooses from before it chooses: it lies on the core, whatever the condition, and a branch for
    each element would keep LLVM from vectors."""

    def swap(s: tirx.Select) -> Expr:
        kind = s.true_value.ty
        held = [tirx.Var(name, kind) for name in ("chosen", "other")]
        return tirx.Let(held[0], s.true_value, tirx.Let(held[1], s.false_value, tirx.Select(s.condition, *held)))

    return tvm_ffi.structural_map(e, (tirx.Select, swap))
