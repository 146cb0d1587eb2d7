"""scan.causal_conv1d and its adjoint, taken apart: what their schedules on every machine need to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import te

from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.schedules.cuda_moves import stages
from treadle.schedules.emit import Load, at


@dataclass(frozen=True)
class Conv:
    """The stages of the Program by name, and its sizes: batch, time, channel."""

    program: Program
    stages: dict[str, te.Tensor]

    @staticmethod
    def of(program: Program) -> Conv:
        return Conv(program, {s.op.name: s for result in program.results for s in stages(result)})

    @property
    def backward(self) -> bool:
        return "g" in self.stages

    @property
    def channels_last(self) -> bool:
        return self.program.attrs["layout"] == "bld"

    @property
    def width(self) -> int:
        return int(self.program.attrs["width"])

    @property
    def sizes(self) -> tuple[Size, Size, Size]:
        return self.place(*self.program.args[0].shape)  # type: ignore[return-value]

    @property
    def chunk(self) -> int:
        """Steps of one part of the gradients of weight and bias."""
        return dm.constant(self.result("dbias").op.body[0].axis[0].dom.extent) or 0

    @property
    def past(self) -> te.Tensor:
        return self.stages["past"]

    @property
    def g(self) -> te.Tensor:
        return self.stages["g"]

    @property
    def around(self) -> te.Tensor:
        return self.stages["g_around"]

    def result(self, name: str) -> te.Tensor:
        return next(t for t in self.program.results if t.op.name == name)

    def place(self, *index: Expr | Size) -> tuple[Expr, ...]:
        """(batch, time, channel) as memory orders them, and back."""
        return index if self.channels_last else (index[0], index[2], index[1])

    def term(self, part: te.Tensor, index: Sequence[Expr], step: Expr, load: Load) -> Expr:
        """What a step of a part, which exists, adds to it."""
        body = part.op.body[0]
        variables = [*(a.var for a in part.op.axis), body.axis[0].var]
        return at(body.source[0].args[1], variables, [*index, step], load)
