"""What both CPU scan schedules share: one line emitted from the Scan itself, the split into tasks, the write of a row.

A step is emitted as several plain loops over the line, one per combination of what exists around it. A chunk's first step
carries nothing, so its loop has no terms; the ends of the line lack a neighbour, so they are peeled and guarded. What
remains, the interior, has no condition in it and LLVM vectorises it whatever the reads' shifts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir import expr as ex
from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read, Scan

#: Fewer tasks than this and some core may idle; grouping positions that share elements stops here.
MIN_TASKS = 16


def used_reads(scan: Scan) -> list[Read]:
    """The reads that source, terms and outputs really make (an adjoint keeps the names of more)."""
    exprs = [scan.source, *(t.weight for t in scan.terms), *(o.value for o in scan.outputs)]
    return [scan.reads[n] for n, s in scan.symbols.items() if any(ex.depends(e, s) for e in exprs)]


def reach(scan: Scan) -> int:
    """How far along the line a step looks."""
    return max([0, *(abs(t.offset) for t in scan.terms), *(abs(r.shift) for r in used_reads(scan))])


def refusals(scan: Scan) -> list[str]:
    """What neither schedule can emit."""
    reasons = [f"a read {r.back} steps back: only the neighbouring steps have guards" for r in used_reads(scan) if abs(r.back) > 1]
    if len({a for o in scan.outputs for a, _ in o.shared}) > 1:
        reasons.append("outputs are summed over more than one axis")
    if any(a in (scan.axis, scan.line) for o in scan.outputs for a, _ in o.shared):
        reasons.append("an output is summed along the walk or the line")
    return reasons


@dataclass(frozen=True)
class Kind:
    """Steps alike in what exists around them: a carry, an earlier and a later step of the chunk."""

    when: Expr
    carries: bool
    earlier: bool
    later: bool


def kinds(scan: Scan, step: Expr) -> Iterator[Kind]:
    first = tirx.any(step == 0, scan.starts(step))  # chunks counted from the end may leave a short one at the start
    last = scan.ends(step)
    begins = [(tirx.Not(first), True, True)]
    if scan.init is not None:
        begins.append((step == 0, True, False))
    if scan.init is None or scan.chunk:
        begins.append((tirx.all(first, step != 0) if scan.init is not None else first, False, False))
    looks_ahead = any(r.back < 0 for r in used_reads(scan))
    for when, carries, earlier in begins:
        if looks_ahead:
            yield Kind(tirx.all(when, tirx.Not(last)), carries, earlier, True)
        yield Kind(tirx.all(when, last) if looks_ahead else when, carries, earlier, False)


@dataclass(frozen=True)
class Cell:
    """One position of a line: turns expressions of the step into loads, products with a missing factor selected away."""

    scan: Scan
    kind: Kind
    position: Expr
    border: bool
    load: Callable[[Read], Expr]

    def value(self, expr: Expr, carry: Expr | None = None, offset: int = 0) -> Expr:
        """`carry` stands at `offset` along the line and must exist for a product with it."""
        kind = type(expr).__name__
        if kind in ("Add", "Sub"):
            a, b = self.value(expr.a, carry, offset), self.value(expr.b, carry, offset)
            return ex.add(a, b) if kind == "Add" else a - b
        reads = [self.scan.reads[n] for n, s in self.scan.symbols.items() if ex.depends(expr, s)]
        zero = tirx.const(0.0, CARRY)
        if any((r.back > 0 and not self.kind.earlier) or (r.back < 0 and not self.kind.later) for r in reads):
            return zero
        shifts = {s for s in (offset, *(r.shift for r in reads)) if s and self.border}
        product = self.scan.value(expr, self.load, carry)
        if not shifts:
            return product
        return T.if_then_else(tirx.all(*(self.scan.inside(self.position + s) for s in sorted(shifts))), product, zero)

    def terms(self, carried: Callable[[int], Expr]) -> Expr:
        """What is carried in: the sum over terms of weight * carry at the term's offset."""
        total: Expr = tirx.const(0.0, CARRY)
        for term in self.scan.terms if self.kind.carries else ():
            product = ex.mul(term.weight, self.scan.carry)
            total = ex.add(total, self.value(product, carried(term.offset), term.offset))
        return total


def emit_line(scan: Scan, kind: Kind, load: Callable[[Read, Expr], Expr], cell: Callable[[Cell], None]) -> None:
    """Loops over a line: peeled ends where a neighbour may be missing, and an interior free of conditions."""
    far, width = reach(scan), scan.width
    parts = [(0, tirx.min(far, width), True), (far, tirx.max(width - far, far), False), (tirx.max(width - far, far), width, True)]
    for lo, hi, border in parts if far else [(0, width, False)]:
        with T.serial(tirx.const(lo, "int64") if isinstance(lo, int) else lo, hi) as l:
            cell(Cell(scan, kind, l, border, lambda read, l=l: load(read, l)))


@dataclass(frozen=True)
class Tasks:
    """The independent positions, cut for threads: all of them alone, except that members of a group share elements."""

    scan: Scan
    axes: tuple[int, ...]
    grouped: int | None
    group: Expr
    count: Expr

    def first(self, task: Expr) -> dict[int, Expr]:
        """The independent axes of a task's first position; the grouped axis varies fastest."""
        found: dict[int, Expr] = {}
        for axis in sorted(self.axes, key=lambda a: a == self.grouped, reverse=True):
            extent = self.scan.sizes[axis]
            if axis == self.grouped:
                extent = T.bind(tirx.truncdiv(extent + self.group - 1, self.group))
            # Bound and truncating: TVM proves no sign here, and would pay for a floor division at every use.
            here = tirx.truncmod(task, extent)
            found[axis] = T.bind(here * self.group if axis == self.grouped else here)
            task = T.bind(tirx.truncdiv(task, extent))
        return found

    def members(self, first: dict[int, Expr]) -> Expr:
        """How many positions of the grouped axis a task owns; the last group may be short."""
        if self.grouped is None:
            return tirx.const(1, "int64")
        return T.bind(tirx.min(self.group, self.scan.sizes[self.grouped] - first[self.grouped]))


def split(scan: Scan, together: int) -> Tasks:
    """Tasks for threads. Must be called inside the function: the group size is decided at run time.

    Outputs summed over an axis force all its positions into one task, so that the sum has one order. Where only reads
    share elements, up to `together` positions form a task: they find the shared line in L1.
    """
    axes = tuple(a for a in range(len(scan.sizes)) if a not in (scan.axis, scan.line))
    one = tirx.const(1, "int64")
    summed = [(a, o.tensor.shape[d]) for o in scan.outputs for a, d in o.shared]
    shared = [(a, r.tensor.shape[d]) for r in used_reads(scan) for a, d in r.shared if a in axes]
    total: Size = one
    for a in axes:
        total = total * scan.sizes[a]
    if not (summed or shared):
        return Tasks(scan, axes, None, one, total)
    grouped, size = (summed or shared)[0]
    whole = scan.sizes[grouped]
    most = whole if summed else tirx.max(one, tirx.min(tirx.const(together, "int64"), tirx.truncdiv(total, tirx.const(MIN_TASKS, "int64"))))
    group = T.bind(tirx.Select(size < whole, most, one))
    groups = T.bind(tirx.truncdiv(whole + group - 1, group))
    return Tasks(scan, axes, grouped, group, groups * product(scan.sizes[a] for a in axes if a != grouped))


def product(sizes: Sequence[Size] | Iterator[Size]) -> Expr:
    total: Expr = tirx.const(1, "int64")
    for size in sizes:
        total = total * size
    return total


def runs_along(index: Callable[[Sequence[Expr]], tuple[Expr, ...]], rank: int, axis: int) -> bool:
    """Whether an index follows an axis of the space in its last, contiguous dimension and nowhere else."""
    position = [tirx.Var(f"p{a}", "int64") for a in range(rank)]
    *others, last = index(position)
    return position[axis].same_as(last) and not any(ex.depends(e, position[axis]) for e in others)


def bytes_of(tensor: te.Tensor) -> Expr:
    return product(tensor.shape) * find_dtype(str(tensor.dtype)).itemsize


def is_carry(scan: Scan, output: Output) -> bool:
    """Whether an output is the carry itself, so that its row is already at hand."""
    return scan.carry.same_as(output.value) and not output.shared
