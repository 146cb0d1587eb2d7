"""The adjoint of the chunked scan: the forward stages again, and what flows back through each, from the last chunk to the first.

`after` is a symbol like `before`: the gradient of the state that the sequence's next chunk received, after[k] = denter[k + 1].
The exponent of place t lies between every earlier j < t and every later i >= t. What passes both ways there is added up as
rows less columns of one matrix, in float64, where the difference of two sums is as good as their difference's sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import te, tirx

from treadle.ir.expr import Expr
from treadle.ir.ops.math import f32, silu, silu_slope
from treadle.ir.ops.scan import ssm
from treadle.ir.ops.scan.mamba_chunk_scan import form_cost
from treadle.ir.ops.scan.mamba_chunk_scan_form import ATTRS, HEADS, Form
from treadle.ir.program import Builder, define


@define(
    "scan.mamba_chunk_scan_adjoint",
    attrs=ATTRS,
    math="gradients of scan.mamba_chunk_scan;  dB, dC[t,g,a] are sums over 8 heads, dA[t] is a token's part, dD[k] a chunk's",
    source="derived from scan.mamba_chunk_scan",
)
def mamba_chunk_scan_adjoint(b: Builder) -> Sequence[te.Tensor]:
    """Gradients of all float operands of `scan.mamba_chunk_scan`; those that many tokens or heads share in float32 parts.

    That of dt_bias is the sum of ddt over all tokens.
    """
    found: dict[str, te.Tensor] = {}

    def leading(form: Form) -> None:
        found["dy"] = b.arg("dy", (form.tokens, *form.heads, form.p))
        found["dfinal"] = b.arg("dfinal", (form.sequences, *form.heads, form.p, form.n), "float32")

    form = Form(b, leading)
    form.read()
    form_cost(b, form)
    b.cost(flops=b.flops * 7 // 2, exps=b.exps * 2)
    return _Adjoint(form, found["dy"], found["dfinal"]).results()


class _Adjoint:
    def __init__(self, form: Form, dy: te.Tensor, dfinal: te.Tensor) -> None:
        self.form, self.dy, self.dfinal = form, dy, dfinal
        f, q, p, n = form, form.q, form.p, form.n

        def gy(k: Expr, g: Expr, r: Expr, i: Expr, c: Expr) -> Expr:
            slope = self.dy_in(k, g, r, i, c)
            z = f.z_in(k, g, r, i, c)
            return slope if z is None else slope * silu(z)

        self.gy = gy = f.by_head((q, p), gy, "gy")
        self.early = f.by_head((q, p), lambda k, g, r, i, c: f.since[k, g, r, i] * gy[k, g, r, i, c], "early")
        self.agree = self.product((q, q), p, "agree", lambda at, i, j, c: gy[(*at, i, c)] * f.u[(*at, j, c)])

        def drawn(*at: Expr) -> Expr:
            *_, i, j = at
            return f.causal(i, j, f.decay(*at) * self.agree[at])

        self.drawn = f.by_head((q, q), drawn, "drawn")
        # The gradient of the state that a chunk leaves, and of the one that enters.
        self.after = te.placeholder(f.enter.shape, "float32", "after")

        def dleft(k: Expr, g: Expr, r: Expr, m: Expr, c: Expr) -> Expr:
            last = dfinal[f.seq[k].astype("int64"), g, r, c, m]
            return tirx.if_then_else(f.ends(k), last, self.after[k, g, r, m, c])

        self.dleft = dleft = f.by_head((n, p), dleft, "dleft")
        self.taken = self.product((n, p), q, "taken", lambda at, m, c, i: f.c_in[(*at[:2], i, m)] * self.early[(*at, i, c)])
        end = tirx.const(q - 1, "int64")
        self.denter = f.by_head(
            (n, p), lambda k, g, r, *at: f.since[k, g, r, end] * dleft[(k, g, r, *at)] + self.taken[(k, g, r, *at)], "denter"
        )
        # What reaches u, B and C: within the chunk, and through the states.
        self.du_within = self.product((q, p), q, "du_within", lambda at, j, c, i: f.mixed[(*at, i, j)] * gy[(*at, i, c)])
        self.du_state = self.product((q, p), n, "du_state", lambda at, j, c, m: f.b_in[(*at[:2], j, m)] * dleft[(*at, m, c)])
        self.db_within = self.product(
            (q, n), q, "db_within", lambda at, j, m, i: self.drawn[(*at, i, j)] * f.c_in[(*at[:2], i, m)]
        )
        self.db_state = self.product((q, n), p, "db_state", lambda at, j, m, c: f.u[(*at, j, c)] * dleft[(*at, m, c)])
        self.dc_within = self.product(
            (q, n), q, "dc_within", lambda at, i, m, j: self.drawn[(*at, i, j)] * f.b_in[(*at[:2], j, m)]
        )
        self.dc_state = self.product((q, n), p, "dc_state", lambda at, i, m, c: gy[(*at, i, c)] * f.enter[(*at, m, c)])
        self.exponents()

    def product(
        self, shape: Sequence[Expr], size: Expr, name: str, term: Callable[[Sequence[Expr], Expr, Expr, Expr], Expr]
    ) -> te.Tensor:
        return self.form.by_head(shape, lambda *at: self.form.dot(size, lambda step: term(at[:3], at[3], at[4], step)), name)

    def dy_in(self, k: Expr, g: Expr, r: Expr, i: Expr, c: Expr) -> Expr:
        return self.form.inside(k, i, f32(self.dy[self.form.token(k, i), g, r, c]))

    def exponents(self) -> None:
        """The gradient of every exponent, delta A of a place."""
        f, q, p, n = self.form, self.form.q, self.form.p, self.form.n

        def moved(at: Sequence[Expr], i: Expr, j: Expr) -> Expr:
            zero = tirx.const(0.0, "float32")
            return f64(tirx.Select(j < i, f.mixed[(*at, i, j)] * self.agree[(*at, i, j)], zero))

        def along(name: str, size: Expr, term: Callable[[Sequence[Expr], Expr, Expr], Expr]) -> te.Tensor:
            return f.by_head((q,), lambda *at: f.dot(size, lambda step: term(at[:3], at[3], step)), name)

        self.rows = rows = along("rows", q, moved)
        self.columns = columns = along("columns", q, lambda at, j, i: moved(at, i, j))
        self.readout = readout = along(
            "readout", n, lambda at, i, m: f64(f.since[(*at, i)] * self.dc_state[(*at, i, m)] * f.c_in[(*at[:2], i, m)])
        )
        self.supply = supply = along(
            "supply", p, lambda at, j, c: f64(f.until[(*at, j)] * self.du_state[(*at, j, c)] * f.u[(*at, j, c)])
        )

        def kept(*at: Expr) -> Expr:
            m, c = (te.reduce_axis((0, size), name) for size, name in ((n, "m"), (p, "c")))
            here = (*at, m.var, c.var)
            last = f.since[(*at, tirx.const(q - 1, "int64"))]
            return te.sum(f64(last * self.dleft[here] * f.enter[here]), [m, c])

        self.kept = kept = f.by_head((), kept, "kept")
        zero = tirx.const(0.0, "float64")

        def later(*at: Expr) -> Expr:
            *head, t = at
            return f.dot(q, lambda i: tirx.Select(i >= t, rows[(*head, i)] - columns[(*head, i)] + readout[(*head, i)], zero))

        def earlier(*at: Expr) -> Expr:
            *head, t = at
            return f.dot(q, lambda j: tirx.Select(j < t, supply[(*head, j)], zero))

        self.later, self.earlier = f.by_head((q,), later, "later"), f.by_head((q,), earlier, "earlier")

        def pull(k: Expr, g: Expr, r: Expr, t: Expr) -> Expr:
            total = (self.later[k, g, r, t] + self.earlier[k, g, r, t] + kept[k, g, r]).astype("float32")
            # An exponent at its lowest does not move; A may be so large that what rounding leaves would show.
            moves = ssm.exponent(f.delta[k, g, r, t], f.a[g, r]) > tirx.const(ssm.LOWEST, "float32")
            return tirx.Select(moves, total, tirx.const(0.0, "float32"))

        self.pull = f.by_head((q,), pull, "pull")

    def du(self, *at: Expr) -> Expr:
        return self.du_within[at] + self.form.until[at[:4]] * self.du_state[at]

    def results(self) -> list[te.Tensor]:
        f, q, p, n, dtype = self.form, self.form.q, self.form.p, self.form.n, self.form.dtype

        def dx(k: Expr, g: Expr, r: Expr, i: Expr, c: Expr) -> Expr:
            total = f.delta[k, g, r, i] * self.du(k, g, r, i, c)
            total = total if f.D is None else total + f.D[g, r, c] * self.gy[k, g, r, i, c]
            return total.astype(dtype)

        def dz(*at: Expr) -> Expr:
            return (self.dy_in(*at) * f.y(*at) * silu_slope(f.z_in(*at))).astype(dtype)

        shared = f.by_head((q,), lambda *at: f.dot(p, lambda c: self.du(*at, c) * f.x_in[(*at, c)]), "shared")

        def ddt(k: Expr, g: Expr, r: Expr, i: Expr) -> Expr:
            through = f.a[g, r] * self.pull[k, g, r, i] + shared[k, g, r, i]
            return f.inside(k, i, through * ssm.delta_slope(*f.raw(k, g, r, i)))

        steps = {
            "ddt": f.by_head((q,), ddt, "ddt_in"),
            "dA": f.by_head((q,), lambda *at: f.delta[at] * self.pull[at], "dA_in"),
        }

        def by_token(name: str) -> te.Tensor:
            def value(t: Expr, g: Expr, r: Expr) -> Expr:
                k = f.chunk[t].astype("int64")
                return steps[name][k, g, r, t - f.first[k].astype("int64")]

            return te.compute(f.dt.shape, value, name)

        def part(name: str, stage: te.Tensor) -> te.Tensor:
            def value(t: Expr, g: Expr, a: Expr, m: Expr) -> Expr:
                k = f.chunk[t].astype("int64")

                def of(h: Expr) -> Expr:
                    head = a * HEADS + h
                    there = stage[k, g, head, t - f.first[k].astype("int64"), m]
                    return tirx.if_then_else(head < f.r, there, tirx.const(0.0, "float32"))

                return f.dot(HEADS, of)

            return te.compute((f.tokens, f.g, (f.r + (HEADS - 1)) // HEADS, n), value, name)

        db = f.by_head((q, n), lambda *at: self.db_within[at] + f.until[at[:4]] * self.db_state[at], "db")
        dc = f.by_head((q, n), lambda *at: self.dc_within[at] + f.since[at[:4]] * self.dc_state[at], "dc")

        def dinitial(s: Expr, g: Expr, r: Expr, c: Expr, m: Expr) -> Expr:
            begin, end = (f.chunks[at].astype("int64") for at in (s, s + 1))
            return tirx.if_then_else(begin < end, self.denter[begin, g, r, m, c], self.dfinal[s, g, r, c, m])

        made = [f.tokens_of(f.by_head((q, p), dx, "dx_out"), "dx")]
        if f.z is not None:
            made.append(f.tokens_of(f.by_head((q, p), dz, "dz_out"), "dz"))
        made += [
            by_token("ddt"),
            by_token("dA"),
            part("dB", db),
            part("dC", dc),
        ]
        if f.D is not None:
            made.append(
                f.by_head(
                    (p,), lambda *at: f.dot(q, lambda i: self.gy[(*at[:3], i, at[3])] * f.x_in[(*at[:3], i, at[3])]), "dD"
                )
            )
        links = {"before": f.left, "after": self.denter}
        return [*made, te.compute(f.initial.shape, dinitial, "dinitial", attrs=links)]


def f64(value: Expr) -> Expr:
    return value.astype("float64")
