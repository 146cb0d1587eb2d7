"""One position of one step, emitted from the Scan itself: what exists around it, and its expressions as loads.

Loads are lazy: what a condition excludes is not touched, so a neighbour outside memory may stand in an expression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read, Scan


def reads(scan: Scan, *exprs: Expr) -> list[Read]:
    """The reads that expressions make; of a scan as a whole, those of source, terms and outputs."""
    exprs = exprs or (scan.source, *(t.weight for t in scan.terms), *(o.value for o in scan.outputs))
    return [scan.reads[n] for n, s in scan.symbols.items() if any(ex.depends(e, s) for e in exprs)]


def reach(scan: Scan) -> int:
    """How far along the line a step looks."""
    return max([0, *(abs(t.offset) for t in scan.terms), *(abs(r.shift) for r in reads(scan))])


def contiguous(scan: Scan, axis: int, *ends: Read | Output) -> bool:
    """Whether an axis is the contiguous one of some reads and outputs, by default of all."""
    position = [tirx.Var(name, "int64") for name in scan.space]
    for end in ends or (*reads(scan), *scan.outputs):
        *others, last = end.index(position)
        if not position[axis].same_as(last) or any(ex.depends(e, position[axis]) for e in others):
            return False
    return True


def refusals(scan: Scan) -> list[str]:
    """What none of the forms can emit."""
    reasons = [f"a read {r.back} steps back: only the neighbouring steps have guards" for r in reads(scan) if abs(r.back) > 1]
    summed = {a for o in scan.outputs for a, _ in o.shared}
    if len(summed) > 1:
        reasons.append("outputs are summed over more than one axis")
    if summed & {scan.axis, scan.line}:
        reasons.append("an output is summed along the walk or the line")
    if scan.init is not None or scan.flush is not None:
        reasons.append("an initial carry: every line starts from nothing here")
    if len(scan.sizes) != 4:
        reasons.append(f"{len(scan.sizes)} axes: a grid has two beside walk and line")
    return reasons


@dataclass(frozen=True)
class Step:
    """Whether there is an earlier step to carry from, and a later one, in the chunk of a step. The same for a whole block."""

    earlier: Expr
    later: Expr


def step_of(scan: Scan, step: Expr) -> Step:
    # Chunks counted from the end of the walk: the one at its start may be short.
    first = tirx.any(step == 0, scan.starts(step)) if scan.from_end and scan.chunk else scan.starts(step)
    return Step(tirx.Not(first), tirx.Not(scan.ends(step)))


@dataclass(frozen=True)
class Cell:
    """One position: a product with a factor that does not exist is selected away, never multiplied.

    `exists(shift)` is the condition under which a neighbour exists, None where it always does.
    """

    scan: Scan
    step: Step
    exists: Callable[[int], Expr | None]
    load: Callable[[Read], Expr]

    def carry(self, carried: Callable[[int], Expr]) -> Expr:
        """The carry of this step, `carried(offset)` being that of the step before."""
        product = [self.value(ex.mul(t.weight, self.scan.carry), carried(t.offset), t.offset) for t in self.scan.terms]
        return self.total(product)

    def total(self, products: Sequence[Expr]) -> Expr:
        """Source and what is carried in."""
        inside: Expr = tirx.const(0.0, CARRY)
        for product in products:
            inside = ex.add(inside, product)
        return ex.add(self.value(self.scan.source), self.where([self.step.earlier], inside) if products else inside)

    def value(self, expr: Expr, carry: Expr | None = None, offset: int = 0) -> Expr:
        """An expression of the step; `carry` stands `offset` along the line, and is not read where there is none."""
        kind = type(expr).__name__
        if kind in ("Add", "Sub"):
            a, b = self.value(expr.a, carry, offset), self.value(expr.b, carry, offset)
            return ex.add(a, b) if kind == "Add" else a - b
        made = reads(self.scan, expr)
        needed = [self.step.earlier] if any(r.back > 0 for r in made) else []
        needed += [self.step.later] if any(r.back < 0 for r in made) else []
        return self.where([*needed, *self.beside({offset, *(r.shift for r in made)})], self.scan.value(expr, self.load, carry))

    def beside(self, shifts: set[int]) -> list[Expr]:
        """The conditions under which these neighbours exist."""
        return [c for s in sorted(shifts - {0}) if (c := self.exists(s)) is not None]

    def where(self, conditions: Sequence[Expr], value: Expr) -> Expr:
        """A value under conditions, else zero; what it loads is loaded only then."""
        return T.if_then_else(tirx.all(*conditions), value, tirx.const(0.0, CARRY)) if conditions else value


def ends(position: Expr, width: Expr) -> Callable[[int], Expr]:
    """The neighbours of any position of a line."""
    return lambda shift: position + shift >= 0 if shift < 0 else position + shift < width
