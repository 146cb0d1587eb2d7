"""What both ways of mapping a convolution share: its stages, worked out from windows in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tvm import te, tirx

from treadle.ir import dims as dm
from treadle.ir.expr import Expr
from treadle.schedules.conv_family import Conv
from treadle.schedules.emit import Load, value


class Point(Protocol):
    threads: int
    steps: int


class Windows:
    """Places are counted from a base step."""

    def __init__(self, conv: Conv, buffers: dict[str, tirx.Var], point: Point, lanes: int) -> None:
        self.conv, self.buffers, self.point, self.lanes = conv, buffers, point, lanes
        self.batch, self.steps, self.channels = conv.sizes
        self.reach = conv.width - 1

    def read(self, name: str, i: Expr, t: Expr, c: Expr, inside: Expr | bool) -> Expr:
        """One element, or zero where it is not there."""
        where = self.conv.place(i, t, c)
        buffer = self.buffers[name]
        return (
            buffer[*where] if inside is True else tirx.if_then_else(inside, buffer[*where], tirx.const(0.0, str(buffer.dtype)))
        )

    def past(self, i: Expr, t: Expr, c: Expr, inside: Expr | bool) -> Expr:
        """What is convolved at step t, which may lie before the first."""
        early = self.read("initial", i, t + self.reach, c, inside)
        late = self.read("x", i, t, c, inside if inside is True else tirx.all(inside, t < self.steps))
        if inside is True:
            late = tirx.if_then_else(t < self.steps, late, tirx.const(0.0, str(self.buffers["x"].dtype)))
        return tirx.if_then_else(t < 0, early, late).astype("float32")

    def load(
        self, i: Expr, t: Expr, c: Expr, past: Callable[[int], Expr], g: Callable[[int], Expr], dy: Expr | None = None,
        weight: Callable[[int], Expr] | None = None,
    ) -> Load:  # fmt: skip
        """Reads of a stage worked out at step t, given index 0: `past(k)` and `g(k)` lie k steps on in their windows."""

        def read(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
            name = tensor.op.name
            if name == "past":
                return past(_number(self.conv.place(*index)[1]))
            if name == "same":
                return self._same(i, t + _number(index[1]), _number(index[2]))
            if name in ("g", "g_around"):
                return g(_number(self.conv.place(*index)[1]))
            if name == "weight":
                return weight(_number(index[0])) if weight else self.buffers["weight"][index[0], c]
            if name == "bias":
                return self.buffers["bias"][c] if weight is None else weight(-1)
            if name == "dy":
                assert dy is not None
                return dy
            return value(tensor, list(index), read)

        return read

    def _same(self, i: Expr, t: Expr, k: int) -> Expr:
        """Whether a tap reads its own sequence; steps that do not exist read the nearest that does, and count nothing."""
        zero = tirx.const(0, t.ty)
        there = tirx.max(zero, tirx.min(t, self.steps - 1))
        tap = tirx.max(zero, tirx.min(t + (k - self.reach), self.steps - 1))
        return self.buffers["seq_idx"][i, there] == self.buffers["seq_idx"][i, tap]

    def at_zero(self, tensor: te.Tensor, load: Load) -> Expr:
        """A stage at index 0, for `load` to place."""
        zero = tirx.const(0, "int64")
        return value(tensor, [zero] * len(tensor.shape), load)

    def terms(self, load: Load) -> list[Expr]:
        """What a step adds to the gradient of each tap, and of the bias."""
        zero = tirx.const(0, "int64")
        taps = [
            self.conv.term(self.conv.result("dweight"), [zero, zero, tirx.const(k, "int64"), zero], zero, load)
            for k in range(self.conv.width)
        ]
        return [*taps, self.conv.term(self.conv.result("dbias"), [zero, zero, zero], zero, load)]


def _number(index: Expr) -> int:
    found = dm.constant(dm.simplify(index))
    assert found is not None, index
    return found
