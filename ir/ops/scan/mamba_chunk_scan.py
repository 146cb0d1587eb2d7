"""The state-space model of Mamba-2 over packed sequences, in chunks (state-space duality)."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from treadle.ir.expr import Expr
from treadle.ir.ops.scan import ssm
from treadle.ir.ops.scan.mamba_chunk_scan_form import ATTRS, Form
from treadle.ir.program import Builder, define


@define(
    "scan.mamba_chunk_scan",
    attrs=ATTRS,
    math="h[t] = exp(delta A) h[t-1] + (delta x) B,  y[t] = sum_n C h[t] + D x, times silu(z);"
    "  delta = clip(softplus(dt + dt_bias), dt_min, dt_max)",
    adjoint="scan.mamba_chunk_scan_adjoint",
    source="Mamba-2, arXiv 2405.21060",
)
def mamba_chunk_scan(b: Builder) -> Sequence[te.Tensor]:
    """Scan S sequences of T tokens in all: G groups of R heads of P channels, a state of N for each channel; states float32."""
    form = Form(b)
    form.read()
    form_cost(b, form)

    def out(*at: Expr) -> Expr:
        return ssm.gated(form.y(*at), form.z_in(*at)).astype(b.dtype)

    made = form.by_head((form.q, form.p), out, "out")

    def final(s: Expr, g: Expr, r: Expr, c: Expr, m: Expr) -> Expr:
        begin, end = (form.chunks[at].astype("int64") for at in (s, s + 1))
        return tirx.if_then_else(begin < end, form.left[end - 1, g, r, m, c], form.initial[s, g, r, c, m])

    return [
        form.tokens_of(made, "y"),
        te.compute((form.sequences, *form.heads, form.p, form.n), final, "final", attrs={"before": form.left}),
    ]


def form_cost(b: Builder, form: Form) -> None:
    """Within a chunk half of the pairs of places count; between chunks the state is made and read."""
    tokens, heads = form.tokens, form.g * form.r
    pairs = tokens * (form.q // 2)
    b.cost(
        flops=2 * pairs * (form.g * form.n + heads * form.p) + 4 * tokens * heads * form.p * form.n,
        exps=pairs * heads + tokens * heads * (form.p if form.z is not None else 1),
    )
