"""Row Programs: what their schedules on every machine need to know of them.

A row Program walks over rows of S elements, [R, S] or [R, G, S] with G rows of a group each: sums along a row, then results
of every element of the row; column operands have one row of elements for each group; and parts are sums over the rows of a
block. Which tensor is what follows from its shape and body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tvm import te, tirx

from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.schedules.emit import at, value

#: An element of an operand at the place that is being computed.
Element = Callable[[te.Tensor], Expr]

FAMILY = ("norm.rms_norm", "norm.add_rms_norm", "norm.rms_norm_gated")


def applies(program: Program) -> bool:
    return program.name.removesuffix("_adjoint") in FAMILY


@dataclass(frozen=True)
class Rows:
    """A row Program, taken apart."""

    program: Program
    count: Size
    groups: Size
    size: Size
    sums: tuple[te.Tensor, ...]
    results: tuple[te.Tensor, ...]
    parts: tuple[te.Tensor, ...]
    #: rows that a part adds up; 1 where there is none
    block: int

    @staticmethod
    def of(program: Program) -> Rows:
        count, *groups, size = program.args[0].shape
        parts = tuple(t for t in program.results if isinstance(t.op.body[0], tirx.Reduce))
        results = tuple(t for t in program.results if t not in parts)
        sums: list[te.Tensor] = []
        for result in program.results:
            sums += [t for t in result.op.input_tensors if isinstance(t.op, te.ComputeOp) and t not in sums]
        block = dm.constant(parts[0].op.body[0].axis[0].dom.extent) if parts else 1
        one = tirx.const(1, "int64")
        return Rows(program, count, groups[0] if groups else one, size, tuple(sums), results, parts, block or 1)

    def column(self, tensor: te.Tensor) -> bool:
        """Whether an operand has one row for each group, and not one for each row."""
        return len(tensor.shape) < len(self.program.args[0].shape)

    def read_by(self, tensors: Sequence[te.Tensor]) -> list[te.Tensor]:
        """The operands that these read, in the order of the arguments."""
        found: list[te.Tensor] = []

        def note(tensor: te.Tensor) -> Expr:
            found.append(tensor)
            return tirx.const(0.0, str(tensor.dtype))

        for tensor in tensors:
            self.term(tensor, note, {s: tirx.const(1.0, "float32") for s in self.sums})
        return [a for a in self.program.args if a in found]

    def term(self, tensor: te.Tensor, element: Element, sums: Mapping[te.Tensor, Expr] | None = None) -> Expr:
        """What an element adds to a sum or a part, or what a result is there."""

        def load(source: te.Tensor, index: Sequence[Expr]) -> Expr:
            return (sums or {})[source] if source in self.sums else element(source)

        zero = tirx.const(0, "int64")
        body = tensor.op.body[0]
        if not isinstance(body, tirx.Reduce):
            return value(tensor, [zero] * len(tensor.shape), load)
        variables = [a.var for a in (*tensor.op.axis, *body.axis)]
        return at(_unguarded(body.source[0]), variables, [zero] * len(variables), load)


def _unguarded(term: Expr) -> Expr:
    """A term of a part without the question whether its row exists: schedules only visit rows that do."""
    call = getattr(getattr(term, "op", None), "name", "")
    return term.args[1] if call == "prim.if_then_else" else term
