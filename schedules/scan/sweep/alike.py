"""When scans are one computation at different places, and what is left of the differences.

The four directions of a sweep read other slices, walk other axes, and ask for other neighbours; the arithmetic is the same.
Stated in common names, its text is the same too, and threads that walk different scans run the same instructions: what
differs is held in registers that each thread sets once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import tvm_ffi
from tvm import tirx

from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read, Scan
from treadle.schedules.cpu.sweep_cell import Cell

_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)


@cache
def value(number: int) -> tirx.Var:
    """The common name of a load or of a scalar made from loads."""
    return tirx.Var(f"value{number}", CARRY)


@cache
def flag(number: int) -> tirx.Var:
    """The common name of a condition on the position alone."""
    return tirx.Var(f"flag{number}", "bool")


CARRIED = tirx.Var("carried", CARRY)


@dataclass(frozen=True)
class Made:
    number: int
    expr: Expr


class Common:
    """A scan of a sweep in common names. `loads[i]` is value i; `flags[i]` the condition, by `at`, that flag i stands for."""

    def __init__(self, scan: Scan) -> None:
        self.scan, cell = scan, Cell(scan)
        self.at = cell.at
        self.loads: list[Read] = list(cell.loads.values())
        self.flags: list[Expr] = []
        self._names: dict[tirx.Var, Expr] = {v: value(i) for i, v in enumerate(cell.loads)}
        self._names[scan.carry] = CARRIED
        self.early: list[Made] = []
        for made in cell.early:
            self._make(self.early, made.var, made.expr)
        self.source = self._common(cell.source)
        self.weights = [self._common(w) for w in cell.weights]
        #: whether weights are read where the carry comes from: then products are carried
        self.pushed = cell.pushed
        self.outputs: list[tuple[Output, Expr]] = [(o, self._common(e)) for o, e in cell.outputs]

    def _make(self, into: list[Made], var: tirx.Var, expr: Expr) -> None:
        common, number = self._common(expr), len(self._names) - 1
        self._names[var] = value(number)
        into.append(Made(number, common))

    def _common(self, expr: Expr) -> Expr:
        named = ex.substitute(expr, self._names)

        def swap(condition: Expr) -> Expr:
            if not any(ex.depends(condition, v) for v in self.at):
                return condition
            if all(str(condition) != str(f) for f in self.flags):
                self.flags.append(condition)
            return flag([str(f) for f in self.flags].index(str(condition)))

        for kind in _COMPARISONS:
            named = tvm_ffi.structural_map(named, (kind, swap))
        return named

    @property
    def text(self) -> str:
        """What must be equal for two scans to share their instructions."""
        scan = self.scan
        parts = [f"{r.tensor.op.name} {r.tensor.dtype} {self.moves(r)} {r.back} {r.shift}" for r in self.loads]
        parts += [f"{m.number}: {m.expr}" for m in self.early]
        parts += [str(self.source), *(f"{t.offset} {w}" for t, w in zip(scan.terms, self.weights, strict=True))]
        parts += [f"{o.tensor.dtype}: {e}" for o, e in self.outputs]
        parts += [f"chunks of {scan.chunk}, {scan.from_end}", str(len(self.flags))]
        return "\n".join(parts)

    @property
    def settled(self) -> bool:
        """Whether no expression asks for the position any more."""
        found = [self.source, *self.weights, *(m.expr for m in self.early), *(e for _, e in self.outputs)]
        return not any(ex.depends(e, v) for e in found for v in self.at)

    def moves(self, end: Read | Output) -> bool:
        """Whether a step or a place on the line makes a difference to where a tensor is accessed."""
        index = end.index(self.at)
        return any(ex.depends(i, self.at[a]) for i in index for a in (self.scan.axis, self.scan.line))

    def used(self, number: int) -> bool:
        """Whether the step itself uses a value, and not only what is made before it."""
        exprs = [self.source, *self.weights, *(e for _, e in self.outputs)]
        return any(ex.depends(e, value(number)) for e in exprs)


def bound(expr: Expr, values: Mapping[tirx.Var, Expr]) -> Expr:
    return ex.substitute(expr, {v: e for v, e in values.items() if ex.depends(expr, v)})


def rounds(scans: tuple[Scan, ...]) -> list[list[Common]]:
    """Scans in order, those side by side that run the same instructions."""
    found: list[list[Common]] = []
    for scan in scans:
        common = Common(scan)
        if found and found[-1][0].text == common.text:
            found[-1].append(common)
        else:
            found.append([common])
    return found
