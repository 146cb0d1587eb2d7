"""The independent positions of a Scan, cut into tasks for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.scan import Scan
from treadle.schedules.cpu import streaming
from treadle.schedules.cpu.scan_common import opaque, used_reads
from treadle.schedules.emit import Function
from treadle.schedules.target import Target

#: Fewer tasks than this and some core may idle; grouping positions that share elements stops here.
MIN_TASKS = 16


@dataclass(frozen=True)
class Task:
    """The positions that one task walks together: `members` of at most `group`, along the axis that they share elements of."""

    scan: Scan
    buffers: Mapping[str, tirx.Var]
    lanes: int
    grouped: int | None
    group: Expr
    members: Expr
    first: Mapping[int, Expr]

    def along(self, scan: Scan) -> Task:
        """The same positions, walked by another scan of the same space."""
        return replace(self, scan=scan)

    def position(self, m: Expr, time: Expr, j: Expr) -> list[Expr]:
        """Where member `m` stands at an index along the walk and one along the line."""
        at = {**self.first, self.scan.axis: time, self.scan.line: j}
        if self.grouped is not None:
            at[self.grouped] = at[self.grouped] + m
        return [at[a] for a in range(len(self.scan.sizes))]


def parallel(
    program: Program, target: Target, together: int, walk: Callable[[Task], None], scans: Sequence[Scan] = ()
) -> tirx.PrimFunc:
    """A function that runs `walk` for all tasks, on all cores, for the Program's scan or for several over one space.

    Outputs summed over an axis force all its positions into one task, so that the sum has one order. Where only reads
    share elements, up to `together` positions form a task: they find the shared line in L1.
    """
    scans = scans or [s for s in (program.scan,) if s is not None]
    scan = scans[0]
    function = Function(program)
    with function as buffers, streaming.imported(target.cpu.lanes):
        grouped, group = _groups(scans, together)
        one, count, extents = tirx.const(1, "int64"), tirx.const(1, "int64"), {}
        # The grouped axis varies fastest.
        for axis in sorted((a for a in range(len(scan.sizes)) if a not in (scan.axis, scan.line)), key=lambda a: a != grouped):
            extents[axis] = T.bind(_ceildiv(scan.sizes[axis], group)) if axis == grouped else scan.sizes[axis]
            count = count * extents[axis]
        with T.parallel(0, count) as task:
            first: dict[int, Expr] = {}
            for axis, extent in extents.items():
                # Truncating: TVM proves no sign here, and would pay for a floor division at every use.
                here = tirx.truncmod(task, extent)
                first[axis] = opaque(here * group if axis == grouped else here)
                task = opaque(tirx.truncdiv(task, extent))
            # The last group may be short.
            members = one if grouped is None else opaque(tirx.min(group, scan.sizes[grouped] - first[grouped]))
            walk(Task(scan, buffers, target.cpu.lanes, grouped, group, members, first))
    return function.primfunc


def _groups(scans: Sequence[Scan], together: int) -> tuple[int | None, Expr]:
    """The axis whose positions share elements, if any, and how many of them form a task: decided at run time."""
    scan = scans[0]
    axes = tuple(a for a in range(len(scan.sizes)) if a not in (scan.axis, scan.line))
    one, total = tirx.const(1, "int64"), product(scan.sizes[a] for a in axes)
    summed = [(a, o.tensor.shape[d]) for s in scans for o in s.outputs for a, d in o.shared]
    shared = [(a, r.tensor.shape[d]) for s in scans for r in used_reads(s).values() for a, d in r.shared if a in axes]
    if not (summed or shared):
        return None, one
    grouped, size = (summed or shared)[0]
    whole = scan.sizes[grouped]
    few = tirx.max(one, tirx.min(tirx.const(together, "int64"), tirx.truncdiv(total, tirx.const(MIN_TASKS, "int64"))))
    return grouped, T.bind(tirx.Select(size < whole, whole if summed else few, one))


def product(sizes: Iterable[Size]) -> Expr:
    total: Expr = tirx.const(1, "int64")
    for size in sizes:
        total = total * size
    return total


def _ceildiv(a: Expr, b: Expr) -> Expr:
    return tirx.truncdiv(a + b - 1, b)
