"""What one position of a fused walk computes, in three parts: what is made from memory, the scan's step, what follows from it.

A scan of a sweep reads tensor expressions; here each becomes a few scalars, their own reads resolved in turn, so that a line
of them is one loop. Reads one step back are left out: a walk carries products forward instead of reading weights twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import tvm_ffi
from tvm import ir, sym, te, tirx

from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Output, Read, Scan
from treadle.schedules.emit import value


@dataclass(frozen=True)
class Made:
    """A scalar of a position, named by `var`: an expression of loads, of scalars made before it, and of the position."""

    var: tirx.Var
    expr: Expr


class Cell:
    """The scalars of a position of one scan. `at` are the variables that stand for the position in every expression.

    `loads` are the reads of memory and of the scan's own outputs, by the variable that stands for the value. `early` comes
    before the step, `late` reads what the step gave; `kept` are the early ones that step or late scalars use.
    """

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self.at = [tirx.Var(name, "int64") for name in scan.space]
        self.loads: dict[tirx.Var, Read] = {}
        self._named: dict[str, tirx.Var] = {}
        self._made: list[Made] = []
        # A gradient is a difference of quotients, which must cancel where they are equal: those are divided out.
        self._exact = any(r.back for r in scan.reads.values())
        self.reach = max(abs(t.offset) for t in scan.terms)
        self._own = {o.tensor.op.name for o in scan.outputs}
        self._analyzer = sym.Analyzer()
        for var, size in zip(self.at, scan.sizes, strict=True):
            self._analyzer.bind(var, ir.Range.from_min_extent(tirx.const(0, "int64"), size))

        self.source = self._resolved(scan.source)
        pushed = any(r.back > 0 for t in scan.terms for r in self._reads(t.weight))
        self.weights = [self._resolved(t.weight, home=pushed) for t in scan.terms]
        self.pushed = pushed
        self.outputs = [(o, self._resolved(o.value)) for o in scan.outputs]

        late: list[tirx.Var] = [v for v, r in self.loads.items() if r.tensor.op.name in self._own]
        self.late: list[Made] = []
        self.early: list[Made] = []
        for made in self._made:
            after = any(ex.depends(made.expr, v) for v in late)
            (self.late if after else self.early).append(made)
            late += [made.var] if after else []
        self.after = [(o, e) for o, e in self.outputs if any(ex.depends(e, v) for v in late)]
        self.outputs = [(o, e) for o, e in self.outputs if all(o is not a for a, _ in self.after)]
        used = [self.source, *self.weights, *(e for _, e in self.outputs), *(m.expr for m in self.late)]
        used += [e for _, e in self.after]
        self.kept = [m.var for m in self.early if any(ex.depends(e, m.var) for e in used)]

    def inner(self, output: Output) -> bool:
        """Whether an output is read again at the same position of this scan."""
        return any(r.tensor.op.name == output.tensor.op.name for r in self.loads.values())

    def inside(self, expr: Expr) -> Expr:
        """An expression at a position with `reach` neighbours on both sides: nothing is selected for want of one."""
        line, width, reach = self.at[self.scan.line], self.scan.width, self.reach
        analyzer, zero = sym.Analyzer(), tirx.const(0, "int64")
        before, after = tirx.Var("before", "int64"), tirx.Var("after", "int64")
        bound: dict[tirx.Var, Expr] = {line: before + reach}
        if isinstance(width, tirx.Var):
            bound[width] = before + after + (2 * reach + 1)
            analyzer.bind(before, ir.Range.from_min_extent(zero, tirx.const(1 << 40, "int64")))
        else:
            analyzer.bind(before, ir.Range.from_min_extent(zero, width - 2 * reach))
        analyzer.bind(after, ir.Range.from_min_extent(zero, tirx.const(1 << 40, "int64")))

        def swap(select: tirx.Select) -> Expr:
            known = analyzer.simplify(ex.substitute(select.condition, bound))
            return self.inside(select.true_value) if ex.is_const(known, 1) else select

        return tvm_ffi.structural_map(expr, (tirx.Select, swap))

    def read_by(self, *exprs: Expr) -> dict[tirx.Var, Read]:
        """The loads that expressions make by themselves, and not through scalars made before."""
        return {v: r for v, r in self.loads.items() if any(ex.depends(e, v) for e in exprs)}

    def _reads(self, expr: Expr) -> list[Read]:
        return [self.scan.reads[n] for n, s in self.scan.symbols.items() if ex.depends(expr, s)]

    def _resolved(self, expr: Expr, home: bool = False) -> Expr:
        """An expression of the step with its symbols replaced; `home` takes reads where they stand, not one step back."""
        bound = {}
        for name, symbol in self.scan.symbols.items():
            if ex.depends(expr, symbol):
                read = self.scan.reads[name]
                bound[symbol] = self._scalar(replace(read, back=0, shift=0) if home else read)
        return ex.substitute(expr, bound)

    def _make(self, key: str, name: str, body: Expr) -> tirx.Var:
        self._named[key] = var = tirx.Var(name, CARRY)
        self._made.append(Made(var, body))
        return var

    def _by_reciprocals(self, body: Expr) -> Expr:
        """Quotients by a divisor that several scalars share become products with its reciprocal, made once."""

        def swap(quotient: tirx.Div) -> Expr:
            if not any(ex.depends(quotient.b, m.var) for m in self._made):
                return quotient
            key = f"1/{quotient.b}"
            if key not in self._named:
                self._make(key, "reciprocal", tirx.const(1.0, CARRY) / quotient.b)
            return quotient.a * self._named[key]

        return tvm_ffi.structural_map(body, (tirx.Div, swap))

    def _scalar(self, read: Read) -> tirx.Var:
        return self._variable(read.tensor, read.index(self.at), read)

    def _variable(self, tensor: te.Tensor, index: Sequence[Expr], via: Read) -> tirx.Var:
        index = [self._analyzer.simplify(i) for i in index]
        key = f"{tensor.op.name}{[_text(i) for i in index]}{via.back:+d}{via.shift:+d}"
        if key in self._named:
            return self._named[key]
        if isinstance(tensor.op, te.ComputeOp):
            body = self._analyzer.simplify(value(tensor, index, lambda t, i: self._variable(t, i, via)))
            return self._make(key, tensor.op.name, body if self._exact else self._by_reciprocals(body))
        where = list(index)

        def same(position: Sequence[Expr]) -> tuple[Expr, ...]:
            return tuple(ex.substitute(i, dict(zip(self.at, position, strict=True))) for i in where)

        self._named[key] = var = tirx.Var(tensor.op.name, CARRY)
        self.loads[var] = Read(tensor, same, via.back, via.shift, via.shared)
        return var


def key(read: Read, at: Sequence[Expr]) -> str:
    """Names the place that a read takes at a position."""
    return f"{read.tensor.op.name}{[_text(i) for i in read.index(at)]}"


def place(output: Output, at: Sequence[Expr]) -> str:
    return f"{output.tensor.op.name}{[_text(i) for i in output.index(at)]}"


def _text(index: Expr | int) -> str:
    return str(int(index)) if isinstance(index, int) else str(int(index.value)) if isinstance(index, tirx.IntImm) else str(index)
