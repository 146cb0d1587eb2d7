"""scan.causal_conv1d_update taken apart: what its schedules on every machine need to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import te, tirx

from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.program import Update
from treadle.schedules import emit
from treadle.schedules.cuda_moves import stages
from treadle.schedules.emit import Load, value


def applies(program: Program) -> bool:
    return program.name == "scan.causal_conv1d_update"


@dataclass(frozen=True)
class Step:
    """The stages of the Program by name, and its sizes: sequences, new steps, channels, and the steps that a state keeps."""

    program: Program
    stages: dict[str, te.Tensor]

    @staticmethod
    def of(program: Program) -> Step:
        (y,) = program.results
        return Step(program, {t.op.name: t for t in (*stages(y), y)})

    @property
    def channels_last(self) -> bool:
        return self.program.attrs["layout"] == "bld"

    @property
    def width(self) -> int:
        return int(self.program.attrs["width"])

    @property
    def slotted(self) -> bool:
        return bool(self.program.attrs["slots"])

    @property
    def update(self) -> Update:
        (update,) = self.program.updates
        return update

    @property
    def sizes(self) -> tuple[Size, Size, Size]:
        return self.place(*self.program.args[0].shape)  # type: ignore[return-value]

    @property
    def slots(self) -> Size:
        return self.program.args[1].shape[0]

    @property
    def kept(self) -> Size:
        return self.place(*self.program.args[1].shape)[1]

    def place(self, *index: Expr | Size) -> tuple[Expr, ...]:
        """(sequence, step, channel) as memory orders them, and back."""
        return index if self.channels_last else (index[0], index[2], index[1])

    def load(self, buffers: dict[str, tirx.Var], slot: Expr | None) -> Load:
        """Operands from memory, but the slot, which is at hand."""

        def load(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
            if tensor.op.name == "slots":
                assert slot is not None
                return slot
            return buffers[tensor.op.name][*index]

        return load

    def y(self, total: Expr) -> Expr:
        """What is made of a sum, of a sequence that has a state: of slot 0, for all that it matters."""
        y = self.stages["y"]
        zero = tirx.const(0, "int32")
        return value(y, [tirx.const(0, "int64")] * len(y.shape), lambda tensor, _: total if tensor.op.name == "pre" else zero)

    def pre(self, at: tuple[Expr, Expr, Expr], early: int, load: Load) -> Expr:
        """The sum at a step (sequence, step, channel), of whose taps the first `early` read the state, the others x."""
        past, begin = self.stages["past"], at[1]

        def read(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
            if not tensor.same_as(past):
                return load(tensor, index)
            tap = dm.constant(dm.simplify(self.place(*index)[1] - begin))
            assert tap is not None, index
            _, old, new = past.op.body[0].args
            return emit.at(old if tap < early else new, [a.var for a in past.op.axis], index, load)

        return value(self.stages["pre"], self.place(*at), read)
