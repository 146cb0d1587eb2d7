"""scan.selective_state_update taken apart: what its schedules on every machine need to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import ir, te, tirx

from treadle.ir import Program
from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.ops import random
from treadle.ir.ops.scan import slots
from treadle.ir.ops.scan.selective_state_update import STOCHASTIC
from treadle.schedules.cuda_moves import stages
from treadle.schedules.emit import Load, at, value


def applies(program: Program) -> bool:
    return program.name == "scan.selective_state_update"


@dataclass(frozen=True)
class Step:
    """The stages of the Program by name, and its sizes: sequences, tokens, groups, heads of a group, channels, states."""

    program: Program
    stages: dict[str, te.Tensor]

    @staticmethod
    def of(program: Program) -> Step:
        ends = (*program.results, *(u.value for u in program.updates))
        return Step(program, {t.op.name: t for end in ends for t in (*stages(end), end)})

    @property
    def attrs(self) -> dict[str, Any]:
        return dict(self.program.attrs)

    @property
    def tied(self) -> bool:
        return bool(self.program.attrs["tied"])

    @property
    def stochastic(self) -> bool:
        return self.program.attrs["state"] == STOCHASTIC

    @property
    def history(self) -> bool:
        return bool(self.program.attrs["history"])

    @property
    def kind(self) -> str:
        """The dtype of the states."""
        return str(self.program.args[0].dtype)

    @property
    def sizes(self) -> tuple[Size, ...]:
        (y, *_), n = self.program.results, self.program.args[0].shape[-1]
        return (*y.shape, n)

    @property
    def slots(self) -> Size:
        return self.program.args[0].shape[0]

    def own(self, head: tuple[Expr, ...], p: Expr) -> tuple[Expr, ...]:
        """Where a head's step size is, or a channel's."""
        return head if self.tied else (*head, p)

    def stage(self, name: str, index: tuple[Expr, ...], load: Load) -> Expr:
        return value(self.stages[name], index, load)

    def load(self, buffers: dict[str, tirx.Var], **known: Expr) -> Load:
        """Operands from memory, stages that are known by name, and the others worked out in place."""

        def load(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
            name = tensor.op.name
            if name in known:
                return known[name]
            if isinstance(tensor.op, te.PlaceholderOp):
                return buffers[name][*index]
            return self.stage(name, tuple(index), load)

        return load

    def delta(self, index: tuple[Expr, ...], load: Load, hold: Callable[[Expr], Expr]) -> Expr:
        """The step size, in a few values that are computed once: softplus reads its exponential thirty times."""
        found: list[tuple[ir.Call, Expr]] = []

        def once(call: ir.Call) -> Expr:
            if getattr(call.op, "name", "") != "tirx.exp":
                return call
            known = next((held for seen, held in found if tvm_ffi.structural_equal(seen, call)), None)
            if known is None:
                found.append((call, known := hold(call)))
            return known

        return hold(tvm_ffi.structural_map(self.stage("delta", index, load), (ir.Call, once)))

    def term(self, index: tuple[Expr, ...], m: Expr, load: Load) -> Expr:
        """What state m of a channel adds to y."""
        dot = self.stages["dot"]
        body = dot.op.body[0]
        return at(body.source[0], [*(a.var for a in dot.op.axis), body.axis[0].var], [*index, m], load)

    def slot(self, sequence: Expr, buffers: dict[str, tirx.Var]) -> Expr:
        return buffers["slots"][sequence].astype("int64") if self.attrs["slots"] else sequence

    def there(self, slot: Expr) -> Expr | bool:
        """Whether a slot is one; a sequence without is skipped, whatever its index says."""
        return slots.inside(slot, self.slots) if self.attrs["slots"] else True

    def words(self, block: Expr, token: Expr, buffers: dict[str, tirx.Var], hold: Callable[[Expr], Expr]) -> list[Expr]:
        """The random bits of `random.SHARE` elements of the states, counted in blocks of so many from the first."""
        return random.words(block, buffers["offset"][0] + token, buffers["seed"][0], hold)
