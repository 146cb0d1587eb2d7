"""The chunk form of the state-space model: what `scan.mamba_chunk_scan` and its adjoint share.

T tokens of S sequences lie one after another. A table cuts them into K = T // chunk + S chunks, so many whatever the lengths
are, in which no chunk holds tokens of two sequences; what is left over is empty:

    first[k]   the first token of chunk k; first[K] = T
    seq[k]     its sequence
    chunks[s]  the first chunk of sequence s; chunks[S] = K, so that the last sequence has the empty chunks too
    chunk[t]   the chunk of token t

Stages are named tensor expressions indexed by chunk, group and head of the group, places i and j in the chunk, channel p and
state n; places beyond the end of a chunk hold 0. The recurrence over chunks is the one thing that a tensor expression cannot
say: `before` is a symbol, and stands for what the sequence's previous chunk left, before[k] = left[k - 1]. The last result has
an attribute for each such symbol: the stage that it stands for.

Sums of exponents are float64: between two of them the difference of two float32 would be off by as much as the larger one.
Sources: Mamba-2, arXiv 2405.21060, section 6 (state-space duality, block decomposition).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import te, tirx

from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.ir.ops.math import f32
from treadle.ir.ops.scan import ssm
from treadle.ir.program import Attr, Builder

#: Heads whose gradients of B and C are added up in one part.
HEADS = 8
#: Places in a chunk: tensor cores multiply by 16.
CHUNKS = tuple(range(16, 513, 16))
ATTRS = {
    "chunk": Attr(128, choices=CHUNKS, doc="tokens of a chunk: within one the work grows with its square"),
    "softplus": Attr(True, choices=(True, False), doc="whether the step is softplus(dt + bias), or dt + bias"),
    "dt_min": Attr(0.0, minimum=0.0, doc="the least step"),
    "dt_max": Attr(float("inf"), minimum=0.0, doc="the largest step"),
    "skip": Attr(True, choices=(True, False), doc="whether y has D x added"),
    "gate": Attr(False, choices=(False, True), doc="whether y is multiplied by silu(z)"),
}


class Form:
    """The arguments, and the stages up to the state that a chunk leaves."""

    def __init__(self, b: Builder, leading: Callable[[Form], None] = lambda form: None) -> None:
        self.b, self.dtype, self.attrs = b, b.dtype, b.attrs
        self.q = int(b.attrs["chunk"])
        self.tokens, self.sequences = b.dim("T"), b.dim("S")
        self.g, self.r, self.p, self.n = (b.dim(name) for name in "GRPN")
        self.count = self.tokens // self.q + self.sequences
        self.heads: tuple[Size, ...] = (self.g, self.r)
        by_token, by_head = (self.tokens, *self.heads, self.p), self.heads
        leading(self)
        self.x = b.arg("x", by_token)
        self.dt = b.arg("dt", (self.tokens, *self.heads), "float32")
        self.a = b.arg("A", by_head, "float32")
        ssm.contracting(b, self.a)
        self.B, self.C = (b.arg(name, (self.tokens, self.g, self.n)) for name in ("B", "C"))
        self.D = b.arg("D", (*by_head, self.p), "float32") if b.attrs["skip"] else None
        self.z = b.arg("z", by_token) if b.attrs["gate"] else None
        self.bias = b.arg("dt_bias", by_head, "float32")
        self.initial = b.arg("initial", (self.sequences, *self.heads, self.p, self.n), "float32")
        self.first = b.arg("first", (self.count + 1,), "int32")
        self.seq = b.arg("seq", (self.count,), "int32")
        self.chunks = b.arg("chunks", (self.sequences + 1,), "int32")
        self.chunk = b.arg("chunk", (self.tokens,), "int32")
        self._state()

    # -- indices ------------------------------------------------------------------------------------------------------------
    def token(self, k: Expr, i: Expr) -> Expr:
        return _index(self.first[k]) + i

    def inside(self, k: Expr, i: Expr, value: Expr) -> Expr:
        """A value that is there, or 0 beyond the end of a chunk."""
        zero = tirx.const(0.0, "float32")
        return tirx.if_then_else(self.token(k, i) < _index(self.first[k + 1]), value, zero)

    def begins(self, k: Expr) -> Expr:
        return _index(self.chunks[_index(self.seq[k])]) == k

    def ends(self, k: Expr) -> Expr:
        return _index(self.chunks[_index(self.seq[k]) + 1]) == k + 1

    def by_head(self, along: Sequence[Size], value: Callable[..., Expr], name: str) -> te.Tensor:
        return te.compute((self.count, *self.heads, *along), value, name)

    def by_group(self, along: Sequence[Size], value: Callable[..., Expr], name: str) -> te.Tensor:
        return te.compute((self.count, self.g, *along), value, name)

    def tokens_of(self, stage: te.Tensor, name: str) -> te.Tensor:
        """A stage by chunk and place, laid out by token."""
        _, *heads, _, last = stage.shape

        def value(t: Expr, *at: Expr) -> Expr:
            k = _index(self.chunk[t])
            return stage[(k, *at[:-1], t - _index(self.first[k]), at[-1])]

        return te.compute((self.tokens, *heads, last), value, name)

    def dot(self, size: Size, term: Callable[[Expr], Expr]) -> Expr:
        k = te.reduce_axis((0, size), "k")
        return te.sum(term(k.var), k)

    # -- stages -------------------------------------------------------------------------------------------------------------
    def raw(self, k: Expr, g: Expr, r: Expr, i: Expr) -> tuple[Expr, Expr, bool, float, float]:
        """What the step size is made of."""
        attrs = self.attrs
        return self.dt[self.token(k, i), g, r], self.bias[g, r], attrs["softplus"], attrs["dt_min"], attrs["dt_max"]

    def _state(self) -> None:
        q, p, n, inside = self.q, self.p, self.n, self.inside
        self.b_in = self.by_group((q, n), lambda k, g, j, m: inside(k, j, f32(self.B[self.token(k, j), g, m])), "b_in")
        self.c_in = self.by_group((q, n), lambda k, g, i, m: inside(k, i, f32(self.C[self.token(k, i), g, m])), "c_in")
        self.x_in = self.by_head((q, p), lambda k, g, r, j, c: inside(k, j, f32(self.x[self.token(k, j), g, r, c])), "x_in")
        delta = self.delta = self.by_head((q,), lambda k, g, r, i: inside(k, i, ssm.delta(*self.raw(k, g, r, i))), "delta")

        def level(k: Expr, g: Expr, r: Expr, i: Expr) -> Expr:
            def term(j: Expr) -> Expr:
                here = ssm.exponent(delta[k, g, r, j], self.a[g, r]).astype("float64")
                return tirx.Select(j <= i, here, tirx.const(0.0, "float64"))

            return self.dot(q, term)

        self.level = self.by_head((q,), level, "level")
        #: what has been left since the chunk began, what will be left when it ends, and over all of it
        self.since = self.by_head((q,), lambda k, g, r, i: _decay(self.level[k, g, r, i]), "since")
        self.until = self.by_head(
            (q,), lambda k, g, r, j: _decay(self.level[k, g, r, _last(q)] - self.level[k, g, r, j]), "until"
        )
        self.u = self.by_head((q, p), lambda k, g, r, j, c: delta[k, g, r, j] * self.x_in[k, g, r, j, c], "u")
        self.late = self.by_head((q, p), lambda k, g, r, j, c: self.until[k, g, r, j] * self.u[k, g, r, j, c], "late")
        self.before = te.placeholder((self.count, *self.heads, n, p), "float32", "before")

        def enter(k: Expr, g: Expr, r: Expr, m: Expr, c: Expr) -> Expr:
            start = self.initial[_index(self.seq[k]), g, r, c, m]
            return tirx.if_then_else(self.begins(k), start, self.before[k, g, r, m, c])

        self.enter = self.by_head((n, p), enter, "enter")

        def added(k: Expr, g: Expr, r: Expr, m: Expr, c: Expr) -> Expr:
            return self.dot(q, lambda j: self.b_in[k, g, j, m] * self.late[k, g, r, j, c])

        self.added = self.by_head((n, p), added, "added")

        def left(k: Expr, *at: Expr) -> Expr:
            return self.since[(k, *at[:2], _last(q))] * self.enter[(k, *at)] + self.added[(k, *at)]

        self.left = self.by_head((n, p), left, "left")

    def decay(self, k: Expr, g: Expr, r: Expr, i: Expr, j: Expr) -> Expr:
        """What is left at place i of what place j added, j <= i."""
        return _decay(self.level[k, g, r, i] - self.level[k, g, r, j])

    def causal(self, i: Expr, j: Expr, value: Expr) -> Expr:
        return tirx.Select(j <= i, value, tirx.const(0.0, "float32"))

    def read(self) -> None:
        """The stages that make y: the duality's masked product within the chunk, and what the state that entered gives."""
        q, p, n = self.q, self.p, self.n

        def gram(k: Expr, g: Expr, i: Expr, j: Expr) -> Expr:
            return self.dot(n, lambda m: self.c_in[k, g, i, m] * self.b_in[k, g, j, m])

        self.gram = self.by_group((q, q), gram, "gram")

        def mixed(k: Expr, g: Expr, r: Expr, i: Expr, j: Expr) -> Expr:
            return self.causal(i, j, self.gram[k, g, i, j] * self.decay(k, g, r, i, j))

        self.mixed = self.by_head((q, q), mixed, "mixed")

        def within(k: Expr, g: Expr, r: Expr, i: Expr, c: Expr) -> Expr:
            return self.dot(q, lambda j: self.mixed[k, g, r, i, j] * self.u[k, g, r, j, c])

        self.within = self.by_head((q, p), within, "within")

        def carried(k: Expr, g: Expr, r: Expr, i: Expr, c: Expr) -> Expr:
            return self.dot(n, lambda m: self.c_in[k, g, i, m] * self.enter[k, g, r, m, c])

        self.carried = self.by_head((q, p), carried, "carried")

    def y(self, k: Expr, g: Expr, r: Expr, i: Expr, c: Expr) -> Expr:
        """Before the gate."""
        total = self.within[k, g, r, i, c] + self.since[k, g, r, i] * self.carried[k, g, r, i, c]
        return total if self.D is None else total + self.D[g, r, c] * self.x_in[k, g, r, i, c]

    def z_in(self, k: Expr, g: Expr, r: Expr, i: Expr, c: Expr) -> Expr | None:
        return None if self.z is None else self.inside(k, i, f32(self.z[self.token(k, i), g, r, c]))


def _decay(level: Expr) -> Expr:
    """Rounding could make a difference of levels positive: it is no decay, and may overflow."""
    return tirx.exp(tirx.min(level.astype("float32"), tirx.const(0.0, "float32")))


def _index(table: Expr) -> Expr:
    return table.astype("int64")


def _last(q: int) -> Expr:
    return tirx.const(q - 1, "int64")
