"""The independent positions of a Scan, cut into tasks for threads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.scan import Scan
from treadle.schedules.cpu.scan_common import opaque, used_reads

#: Fewer tasks than this and some core may idle; grouping positions that share elements stops here.
MIN_TASKS = 16


@dataclass(frozen=True)
class Tasks:
    """Each position is a task of its own, except that positions that share elements may be members of one task."""

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
                extent = opaque(_ceildiv(extent, self.group))
            # Bound and truncating: TVM proves no sign here, and would pay for a floor division at every use.
            here = tirx.truncmod(task, extent)
            found[axis] = opaque(here * self.group if axis == self.grouped else here)
            task = opaque(tirx.truncdiv(task, extent))
        return found

    def members(self, first: dict[int, Expr]) -> Expr:
        """How many positions of the grouped axis a task owns; the last group may be short."""
        if self.grouped is None:
            return tirx.const(1, "int64")
        return opaque(tirx.min(self.group, self.scan.sizes[self.grouped] - first[self.grouped]))


def split(scan: Scan, together: int) -> Tasks:
    """Tasks for threads; emitted inside the function, because the group size is decided at run time.

    Outputs summed over an axis force all its positions into one task, so that the sum has one order. Where only reads
    share elements, up to `together` positions form a task: they find the shared line in L1.
    """
    axes = tuple(a for a in range(len(scan.sizes)) if a not in (scan.axis, scan.line))
    one, total = tirx.const(1, "int64"), product(scan.sizes[a] for a in axes)
    summed = [(a, o.tensor.shape[d]) for o in scan.outputs for a, d in o.shared]
    shared = [(a, r.tensor.shape[d]) for r in used_reads(scan).values() for a, d in r.shared if a in axes]
    if not (summed or shared):
        return Tasks(scan, axes, None, one, total)
    grouped, size = (summed or shared)[0]
    whole = scan.sizes[grouped]
    few = tirx.max(one, tirx.min(tirx.const(together, "int64"), tirx.truncdiv(total, tirx.const(MIN_TASKS, "int64"))))
    group = T.bind(tirx.Select(size < whole, whole if summed else few, one))
    return Tasks(
        scan, axes, grouped, group, T.bind(_ceildiv(whole, group)) * product(scan.sizes[a] for a in axes if a != grouped)
    )


def product(sizes: Iterable[Size]) -> Expr:
    total: Expr = tirx.const(1, "int64")
    for size in sizes:
        total = total * size
    return total


def _ceildiv(a: Expr, b: Expr) -> Expr:
    return tirx.truncdiv(a + b - 1, b)
