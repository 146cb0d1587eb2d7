"""Which state each sequence of a batch has: one of K slots, or none, where it is padding."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import te, tirx

from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.program import Attr, Builder

#: The slot of a sequence that has none.
PAD = -1
ATTR = Attr(False, choices=(False, True), doc="whether `slots` says which state a sequence has; -1: none, it is padding")


def inside(slot: Expr, count: Size) -> Expr:
    """Whether a slot is one; a sequence without is skipped, whatever its index says."""
    return tirx.all(slot >= 0, slot < count)


@dataclass(frozen=True)
class Slots:
    """Without a table every sequence has the state of its own number."""

    count: Size
    sequences: Size
    table: te.Tensor | None = None

    @staticmethod
    def count_of(b: Builder, sequences: Size) -> Size:
        return b.dim("K") if b.attrs["slots"] else sequences

    @staticmethod
    def of(b: Builder, sequences: Size) -> Slots:
        """Ask for the table, and state what must hold of it."""
        count = Slots.count_of(b, sequences)
        if not b.attrs["slots"]:
            return Slots(count, sequences)
        made = Slots(count, sequences, b.arg("slots", (sequences,), "int32"))
        made._require(b)
        return made

    def __getitem__(self, i: Expr) -> Expr:
        return i if self.table is None else self.table[i].astype("int64")

    def there(self, i: Expr) -> Expr:
        """Whether a sequence has a state."""
        return tirx.const(True, "bool") if self.table is None else inside(self[i], self.count)

    def only(self, i: Expr, value: Expr, dtype: str) -> Expr:
        """What a sequence without a state has 0 of."""
        return value if self.table is None else tirx.if_then_else(self.there(i), value, tirx.const(0.0, dtype))

    def _require(self, b: Builder) -> None:
        table, s = self.table, self.sequences
        assert table is not None
        known = te.compute((s,), lambda i: tirx.any(table[i] == PAD, self.there(i)), "inside")
        b.require(known, f"slots are {PAD}, for padding, or from 0 to K - 1")
        apart = te.compute((s, s), lambda i, j: tirx.any(i == j, table[i] == PAD, table[i] != table[j]), "apart")
        b.require(apart, "no two sequences have the same slot")
