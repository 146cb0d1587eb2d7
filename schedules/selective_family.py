"""scan.selective_scan and its adjoint, taken apart: what their schedules on every machine need to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import tvm_ffi
from tvm import ir, te, tirx

from treadle.errors import ArgumentError
from treadle.ir import Program
from treadle.ir import expr as ex
from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.ops.scan.selective_scan import PART
from treadle.ir.scan import Scan
from treadle.schedules.cuda_moves import stages
from treadle.schedules.emit import value

NAMES = ("scan.selective_scan", "scan.selective_scan_adjoint")
#: What the adjoint scan gives of every state at every step.
GRADIENTS = ("dstep", "du_scan", "dA", "dB", "dC")
#: Sums over the steps of a channel.
SUMS = ("dD", "ddelta_bias")


@dataclass(frozen=True)
class Family:
    """The scans of the Program, its stages by row (sequence, group, channel, step), and its sizes."""

    program: Program
    scan: Scan
    back: Scan | None
    rows: Mapping[str, te.Tensor] = field(repr=False)

    @staticmethod
    def of(program: Program) -> Family:
        assert program.sweep is not None
        scan, *rest = program.sweep.scans
        made: dict[str, te.Tensor] = {}
        for s in program.sweep.scans:
            for read in s.reads.values():
                if isinstance(read.tensor.op, te.ComputeOp):
                    made |= {t.op.name: t for t in (*stages(read.tensor), read.tensor)}
        return Family(program, scan, rest[0] if rest else None, made)

    @property
    def states(self) -> int:
        return int(self.program.attrs["state"])

    @property
    def sizes(self) -> tuple[Size, Size, Size, Size]:
        """Sequences, groups, channels of a group, steps."""
        s, g, r, _, steps = self.scan.sizes
        return s, g, r, steps

    @property
    def part(self) -> int:
        return PART

    @cached_property
    def stored(self) -> Mapping[str, tuple[te.Tensor, te.Tensor]]:
        """The results that are made by row: (result, the stage that gives its elements)."""
        last = self.back or self.scan
        found = {}
        for output in last.outputs:
            name = f"{output.tensor.op.name}_of"
            if name in last.reads:
                found[output.tensor.op.name] = output.tensor, last.reads[name].tensor
        return found

    @cached_property
    def rate(self) -> Expr:
        """The decay is 2^(rate * log2(e) A): the exponent's derivative by A, which it is linear in."""
        weight, a = self.scan.terms[0].weight, self.scan.symbols["A"]
        rate = ex.derivative(weight.args[0], a)
        if weight.op.name != "tirx.exp" or ex.depends(rate, a):
            raise ArgumentError("the decay of a selective scan", given=str(weight), expected="exp of a multiple of A")
        return rate

    def bound(self, scan: Scan, expr: Expr, at: Mapping[str, Expr], carry: Expr | None = None) -> Expr:
        """An expression of a step. `at` holds what stands at it by tensor, `decay`, and the states before (`past`) and after
        it (`now`); weights are read where they stand, and their products carried on."""
        weight, decay = self.scan.terms[0].weight, tirx.Var("decay", "float32")
        expr = tvm_ffi.structural_map(expr, (ir.Call, lambda c: decay if tvm_ffi.structural_equal(c, weight) else c))
        values = {decay: at["decay"]} if "decay" in at else {}
        for symbol in ex.symbols(expr):
            name = next((n for n, s in scan.symbols.items() if s.same_as(symbol)), None)
            if name is not None:
                read = scan.reads[name]
                kept = "past" if read.back else "now"
                values[symbol] = at[kept if read.tensor.op.name == "kept" else read.tensor.op.name]
        if carry is not None:
            values[scan.carry] = carry
        return ex.substitute(expr, values)

    def by_row(self, stage: te.Tensor, index: Sequence[Expr], load: Callable[[te.Tensor, Sequence[Expr]], Expr | None]) -> Expr:
        """A stage by row; what `load` does not know is worked out."""

        def read(tensor: te.Tensor, where: Sequence[Expr]) -> Expr:
            found = load(tensor, where)
            return value(tensor, list(where), read) if found is None else found

        return value(stage, list(index), read)
