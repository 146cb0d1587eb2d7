"""Sweeps: all scans of a plane by the thread that holds it, while the plane is in its cache.

Exploits: what a plane's four walks share (x, and the sum they add up to) and what only they need (gates, states, gated states)
never crosses the memory bus; the sum is float32 lines beside the walk. Walks along the contiguous axis come last, so that
the sum is turned round once, in tiles, on its way from the others. Gates are zero where a neighbour does not exist and lines
have zero margins: a step has no condition in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir.dims import Size
from treadle.ir.scan import CARRY, Scan
from treadle.schedules.cpu import scan_tasks, vecmath
from treadle.schedules.cpu.scan_common import runs_along
from treadle.schedules.cpu.scan_tasks import Task
from treadle.schedules.cpu.sweep_cell import Cell, place
from treadle.schedules.cpu.sweep_lines import pitch_of
from treadle.schedules.cpu.sweep_states import Marks, States, Window, first_of, segments
from treadle.schedules.cpu.sweep_tiles import Tiles
from treadle.schedules.cpu.sweep_walk import Rows, Sum
from treadle.schedules.space import knob
from treadle.schedules.target import Target


@dataclass(frozen=True)
class Knobs:
    together: int = knob(8, (1, 2, 4, 8, 16), "positions sharing gates that are walked together, so that these are made once")
    columns: int = knob(32, (16, 32), "steps per tile where the walk is contiguous: a pair of cache lines of each row")
    ahead: int = knob(32, (0, 32), "rows of a tile asked for before they are gathered: they are a pitch apart")
    checkpoint: int = knob(0, (0, 32, 64), "steps between the states kept for a gradient, the others being made again; 0 keeps all")


def applies(program: Program) -> bool:
    return program.sweep is not None


def legal(program: Program, target: Target, point: Knobs) -> list[str]:
    return []


def default(program: Program, target: Target) -> Knobs:
    return Knobs()


def schedule(program: Program, target: Target, point: Knobs) -> tirx.PrimFunc:
    assert program.sweep is not None
    scans = program.sweep.scans
    func = scan_tasks.parallel(program, target, point.together, lambda task: _Sweep(program, task, point).emit(), scans)
    return vecmath.vectorise(func)


class _Sweep:
    """One task: a few planes that share gates, or a single one."""

    def __init__(self, program: Program, task: Task, point: Knobs) -> None:
        assert program.sweep is not None
        self.task, self.point = task, point
        # Contiguous lines last; a scan stays behind the one whose states it reads, which walks the same way.
        self.scans = sorted(program.sweep.scans, key=lambda s: runs_along(s, tuple, s.line))
        self.results = {t.op.name for t in program.sweep.results}
        self.cells = {id(s): Cell(s) for s in self.scans}
        #: per tensor that several scans write: those scans, and its sum so far by the axis that its lines lie along
        self.sums: dict[str, list[Scan]] = {}
        for scan in self.scans:
            at = self.cells[id(scan)].at
            for output in scan.outputs:
                if any(place(output, at) == place(o, self.cells[id(s)].at) for s in self.scans if s is not scan for o in s.outputs):
                    self.sums.setdefault(output.tensor.op.name, []).append(scan)
        self.lines: dict[tuple[str, int], tirx.Var] = {}
        self.states: dict[int, States] = {}

    def emit(self) -> None:
        for scan in self.scans:
            for name, writers in self.sums.items():
                if scan in writers and (name, scan.line) not in self.lines:
                    self.lines[name, scan.line] = self._plane(scan, scan.steps)
            if self._leaves(scan) and not self.point.checkpoint and scan.line not in self.states:
                self.states[scan.line] = States.room(scan, self.task.group, self.task.members)
        read = False
        for i, scan in enumerate(self.scans):
            if read:  # with the scan before it
                read = False
            elif self.point.checkpoint and self._leaves(scan):
                self._by_segments(scan, self.scans[i + 1])
                read = True
            else:
                self._walk(scan, self.states.get(scan.line)).emit()

    def _walk(self, scan: Scan, states: States | Marks | Window | None) -> Rows:
        kind = Rows if runs_along(scan, tuple, scan.line) else Tiles
        sums = {n: self._sum(n, w, scan) for n, w in self.sums.items() if scan in w}
        cell = self.cells[id(scan)]
        return kind(self.task.along(scan), cell, self.point.columns, self.point.ahead, self.results, sums, states)

    def _by_segments(self, maker: Scan, reader: Scan) -> None:
        """Few states kept on a first walk; then segment after segment the states between made again, and read."""
        every, task = self.point.checkpoint, self.task
        marks, lines = Marks.room(maker, task.group, every), Window.room(maker, task.group, task.members, every)
        makes = self._walk(maker, marks)
        makes.emit()
        reads = self._walk(reader, None)
        reads.begin()
        with T.serial(0, segments(maker, every)) as segment:
            window = Window(lines, every, first_of(maker, every, segment))
            makes.states = reads.states = window
            window.begin(marks, makes.carry, maker, task.members, segment)
            makes.walk(window.first, maker.steps - segment * every)
            reads.walk(segment * every, tirx.min((segment + 1) * every, reader.steps))
        reads.end()

    def _plane(self, scan: Scan, lines: Size) -> tirx.Var:
        """Room for every line of a plane, for each position of the group."""
        return T.alloc_buffer((self.task.group, lines, pitch_of(scan.width)), CARRY)

    def _leaves(self, scan: Scan) -> bool:
        """Whether a scan keeps its states for the one after it."""
        return any(o.tensor.op.name not in self.results and not self.cells[id(scan)].inner(o) for o in scan.outputs)

    def _sum(self, name: str, writers: list[Scan], scan: Scan) -> Sum:
        before = writers[: next(i for i, s in enumerate(writers) if s is scan)]
        turned = before[-1] if before and before[-1].line != scan.line else None
        return Sum(
            lines=self.lines[name, scan.line],
            first=not before,
            last=writers[-1] is scan,
            turned=self.lines[name, turned.line] if turned else None,
        )
