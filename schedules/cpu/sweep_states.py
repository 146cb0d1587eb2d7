"""The states that one scan of a sweep leaves for the next: every line of them, or every k-th, from which those between are made again.

The scan that reads them walks the other way, so segments of `every` steps are counted from the end: the reader's segment s is
steps [T - (s+1) every, T - s every) of the scan that makes them, and needs the state one step before.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Scan
from treadle.schedules.cpu.scan_common import PAD, opaque
from treadle.schedules.cpu.sweep_lines import pitch_of, zero


@dataclass(frozen=True)
class States:
    """All lines of a plane, at their index along the walk; one more is zero, the state before a chunk."""

    lines: tirx.Var

    @staticmethod
    def room(scan: Scan, group: Expr, members: Expr) -> States:
        lines = T.alloc_buffer((group, scan.steps + 1, pitch_of(scan.width)), CARRY)
        zero(lines, (members, scan.steps + 1, pitch_of(scan.width)))
        return States(lines)

    def written(self, scan: Scan, step: Expr) -> Expr:
        """The line that the maker's step writes."""
        return scan.time(step)

    def read(self, scan: Scan, step: Expr, back: int) -> Expr:
        """The line that holds the state of the reader's step, or of the one `-back` steps before it in the maker's order."""
        if not back:
            return scan.time(step)
        return tirx.Select(scan.ends(step), scan.steps, scan.time(step - back))


@dataclass(frozen=True)
class Marks:
    """The last line before every segment; all others go to one that nobody reads."""

    lines: tirx.Var
    every: int

    @staticmethod
    def room(scan: Scan, group: Expr, every: int) -> Marks:
        return Marks(T.alloc_buffer((group, segments(scan, every) + 1, pitch_of(scan.width)), CARRY), every)

    def written(self, scan: Scan, step: Expr) -> Expr:
        left = scan.steps - 1 - step
        due = tirx.all(tirx.truncmod(left, tirx.const(self.every, "int64")) == 0, left > 0)
        return tirx.Select(due, tirx.truncdiv(left, tirx.const(self.every, "int64")) - 1, segments(scan, self.every))

    def read(self, scan: Scan, step: Expr, back: int) -> Expr:
        raise AssertionError("marks are where a walk starts again, not what a scan reads")


@dataclass(frozen=True)
class Window:
    """The lines of one segment after the one before it; the last is zero, the state before a chunk."""

    lines: tirx.Var
    every: int
    #: the maker's first step of the segment, set while it is emitted
    first: Expr

    @staticmethod
    def room(scan: Scan, group: Expr, members: Expr, every: int) -> tirx.Var:
        lines = T.alloc_buffer((group, every + 2, pitch_of(scan.width)), CARRY)
        zero(lines, (members, every + 2, pitch_of(scan.width)))
        return lines

    def written(self, scan: Scan, step: Expr) -> Expr:
        return step - self.first + 1

    def read(self, scan: Scan, step: Expr, back: int) -> Expr:
        line = scan.steps - step - self.first  # the maker's step is steps - 1 - step, and its line one more than its place
        if not back:
            return line
        return tirx.Select(scan.ends(step), tirx.const(self.every + 1, "int64"), line + back)

    def begin(self, marks: Marks, carry: tirx.Var, scan: Scan, members: Expr, segment: Expr) -> None:
        """The state before the segment: where the walk goes on from, and the reader's first one."""
        before = (self.first + 1) % 2
        with T.serial(0, members) as m, T.serial(0, scan.width) as j:
            T.buffer_store(carry, marks.lines[m, segment, PAD + j], [m, before, 0, PAD + j])
            T.buffer_store(self.lines, marks.lines[m, segment, PAD + j], [m, 0, PAD + j])


def segments(scan: Scan, every: int) -> Expr:
    return tirx.truncdiv(scan.steps + (every - 1), tirx.const(every, "int64"))


def first_of(scan: Scan, every: int, segment: Expr) -> Expr:
    """The maker's first step of a segment."""
    return opaque(tirx.max(scan.steps - (segment + 1) * every, tirx.const(0, "int64")))
