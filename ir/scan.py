"""The scan combinator: a linear recurrence along one axis, written once.

A step says what the carry becomes at one position, from tensors read at that position and from the carry one step earlier
at fixed offsets along the line:

    step = lambda r, h: r.lam * r.x + r.g0 * h[-1] + r.g1 * h[0] + r.g2 * h[1]

Tracing it once yields `source + sum_k weight_k * carry[k]`. From this one statement come every forward schedule and, by
`Scan.adjoint`, the backward scan: the same structure with the direction turned round, each weight read where the carry
comes from, and one more output per tensor read. A neighbour that does not exist (beyond the line, before the chunk) is
selected away, never multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from tvm import te, tirx

from treadle.errors import ArgumentError
from treadle.ir import expr as ex
from treadle.ir.dims import Size
from treadle.ir.expr import Expr

Position = Sequence[Expr]
Index = Callable[[Position], tuple[Expr, ...]]

#: The dtype of carry, products and sums, whatever the tensors hold: bf16 state saturates after 256 unit steps.
CARRY = "float32"


@dataclass(frozen=True)
class Read:
    """A tensor seen from a position of the scan, or from the position `back` steps earlier and `shift` along the line."""

    tensor: te.Tensor
    index: Index
    back: int = 0
    shift: int = 0
    #: (axis of the space, dimension of the tensor): that axis is collapsed onto the dimension, c -> min(c, size - 1).
    shared: tuple[tuple[int, int], ...] = ()
    #: What stands at that step where it lies beyond the walk; without it, nothing does.
    beyond: Read | None = None


@dataclass(frozen=True)
class Term:
    """weight * carry[one step earlier, `offset` along the line]."""

    offset: int
    weight: Expr


@dataclass(frozen=True)
class Output:
    """What a position writes. Where an axis is `shared`, the values of the positions that share an element are summed; in a
    sweep, over every axis that the value depends on and its place does not."""

    tensor: te.Tensor
    index: Index
    value: Expr
    shared: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Scan:
    """carry[p] = source(p) + sum over terms of weight(p) * carry[p - one step + offset along the line].

    `space` names the axes and their sizes; `axis` is walked, `line` holds the neighbours, all other axes are independent.
    `chunk` > 0 cuts the walk into independent pieces of that many steps, counted from the end of the walk where
    `from_end` is set (an adjoint walks backwards over the chunks of its forward scan). `init` is the carry before the
    first step; `flush` receives what the terms would carry one step beyond the last (the adjoint of `init`). `final`
    receives the carry after the last step; `entry` is added to the carry of the first (the adjoint of `final`).
    """

    space: Mapping[str, Size]
    axis: int
    line: int
    reverse: bool
    chunk: int
    from_end: bool
    reads: Mapping[str, Read]
    symbols: Mapping[str, tirx.Var]
    carry: tirx.Var
    source: Expr
    terms: tuple[Term, ...]
    outputs: tuple[Output, ...]
    init: Read | None = None
    flush: Output | None = None
    final: Output | None = None
    entry: Read | None = None

    @property
    def results(self) -> tuple[te.Tensor, ...]:
        """The tensors written, each once: several outputs may fill parts of the same tensor."""
        found: list[te.Tensor] = []
        for output in (*self.outputs, *(o for o in (self.flush, self.final) if o)):
            if not any(output.tensor.same_as(t) for t in found):
                found.append(output.tensor)
        return tuple(found)

    @property
    def sizes(self) -> tuple[Size, ...]:
        return tuple(self.space.values())

    @property
    def steps(self) -> Size:
        return self.sizes[self.axis]

    @property
    def width(self) -> Size:
        return self.sizes[self.line]

    def time(self, step: Expr) -> Expr:
        """The index along the walked axis at a step of the walk."""
        return self.steps - 1 - step if self.reverse else step

    def starts(self, step: Expr) -> Expr:
        """Whether a step is the first of its chunk: nothing is carried into it."""
        if not self.chunk:
            return step == 0
        return (self.steps - step) % self.chunk == 0 if self.from_end else step % self.chunk == 0

    def ends(self, step: Expr) -> Expr:
        """Whether a step is the last of its chunk."""
        last = step == self.steps - 1
        if not self.chunk:
            return last
        return tirx.any(last, self.starts(step + 1))

    def inside(self, position: Expr) -> Expr:
        """Whether a position along the line exists."""
        return tirx.all(position >= 0, position < self.width)

    def value(self, expr: Expr, load: Callable[[Read], Expr], carry: Expr | None = None) -> Expr:
        """An expression of the step with its symbols replaced by loads (cast to the carry's dtype) and by the carry."""
        used = ex.symbols(expr)
        bound: dict[tirx.Var, Expr] = {
            s: load(self.reads[n]).astype(CARRY) for n, s in self.symbols.items() if any(s.same_as(u) for u in used)
        }
        if carry is not None:
            bound[self.carry] = carry
        return ex.substitute(expr, bound)

    def adjoint(self, grad: te.Tensor, saved: te.Tensor, results: Mapping[str, te.Tensor]) -> Scan:
        """The backward scan of a forward scan with one output.

        `grad` is the gradient of the output, `saved` the forward carry over the whole space; `results` names, for each tensor
        read, the tensor that receives its gradient, and for `final` the tensor that holds its gradient. With
        a[p] = grad[p] d output/d carry + sum_k weight_k[q] a[q] over the positions q that p was carried into, the gradient
        of a read is a (d source/d read + sum_k d weight_k/d read carry_k), and
        grad d output/d read where the output reads it too.
        """
        (out,) = self.outputs
        reads = dict(self.reads)
        reads["grad"] = Read(grad, out.index)
        symbols = {**self.symbols, "grad": _symbol("grad")}
        carry = _symbol("adjoint")

        # Carried values of the forward scan, read from its output: one step earlier there is one step later here, and what
        # its first step was carried is `init`.
        past: dict[int, tirx.Var] = {}
        for term in self.terms:
            name = f"past{term.offset:+d}"
            reads[name] = Read(saved, tuple, back=-1, shift=term.offset, beyond=self.init)
            symbols[name] = past[term.offset] = _symbol(name)

        # p was carried into q = (one forward step later, -offset along the line): the weight is read there.
        terms = []
        for term in self.terms:
            moved: dict[tirx.Var, Expr] = {}
            for name, read in self.reads.items():
                if ex.depends(term.weight, self.symbols[name]):
                    there = f"{name}@{-term.offset:+d}"
                    reads[there] = replace(read, back=1, shift=-term.offset)
                    symbols[there] = moved[self.symbols[name]] = _symbol(there)
            terms.append(Term(-term.offset, ex.substitute(term.weight, moved)))

        outputs = []
        reads["now"], symbols["now"] = Read(saved, tuple), _symbol("now")
        for name, read in self.reads.items():
            here = self.symbols[name]
            value = ex.derivative(self.source, here)
            for term in self.terms:
                value = ex.add(value, ex.mul(ex.derivative(term.weight, here), past[term.offset]))
            beside = ex.substitute(ex.derivative(out.value, here), {self.carry: symbols["now"]})
            value = ex.add(ex.mul(value, carry), ex.mul(symbols["grad"], beside))
            outputs.append(Output(results[read.tensor.op.name], read.index, value, read.shared))

        flush = None
        if self.init is not None:
            flush = Output(results[self.init.tensor.op.name], self.init.index, carry)
        entry = None
        if self.final is not None:
            entry = Read(results[self.final.tensor.op.name], self.final.index)
        return replace(
            self,
            reverse=not self.reverse,
            from_end=not self.from_end,
            reads=reads,
            symbols=symbols,
            carry=carry,
            source=ex.mul(symbols["grad"], ex.derivative(out.value, self.carry)),
            terms=tuple(terms),
            outputs=tuple(outputs),
            init=None,
            flush=flush,
            final=None,
            entry=entry,
        )


def trace(
    space: Mapping[str, Size],
    axis: str,
    line: str,
    reads: Mapping[str, Read],
    step: Callable[[Any, Mapping[int, Expr]], Expr],
    out: str,
    dtype: str,
    *,
    reverse: bool = False,
    chunk: int = 0,
    init: Read | None = None,
    value: Callable[[Any, Expr], Expr] = lambda r, h: h,
) -> Scan:
    """Trace a step function into a Scan that writes `value` of its reads and carry to a tensor `out` over the whole space."""
    names = list(space)
    symbols = {n: _symbol(n) for n in reads}
    carried = _Carried()
    seen = SimpleNamespace(**symbols)
    stated = step(seen, carried)

    terms = [Term(k, ex.derivative(stated, h)) for k, h in sorted(carried.items())]
    for term in terms:
        if any(ex.depends(term.weight, h) for h in carried.values()):
            raise ArgumentError(
                "a scan step must be linear in the carry", given=str(stated), expected="source + sum_k weight_k * h[k]"
            )
    source = ex.substitute(stated, {h: tirx.const(0.0, CARRY) for h in carried.values()})
    carry = _symbol("carry")
    result = Output(te.placeholder(tuple(space.values()), dtype, out), tuple, value(seen, carry))
    return Scan(
        space, names.index(axis), names.index(line), reverse, chunk, False, reads, symbols, carry,
        _drop_zeros(source), tuple(terms), (result,), init,
    )  # fmt: skip


class _Carried(dict[int, tirx.Var]):
    """h[k]: the symbol of the carry at offset k, made on first use."""

    def __missing__(self, offset: int) -> tirx.Var:
        self[offset] = _symbol(f"h{offset:+d}")
        return self[offset]


def _symbol(name: str) -> tirx.Var:
    return tirx.Var(name, CARRY)


def _drop_zeros(expr: Expr) -> Expr:
    """a + w * 0 -> a, on the sums and products that tracing leaves behind."""
    kind = type(expr).__name__
    if kind == "Add":
        return ex.add(_drop_zeros(expr.a), _drop_zeros(expr.b))
    if kind == "Mul":
        return ex.mul(_drop_zeros(expr.a), _drop_zeros(expr.b))
    return expr
