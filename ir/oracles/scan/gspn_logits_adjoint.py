"""Oracle of scan.gspn_logits_adjoint: the written-out gradients of scan and gates, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.scan import gspn, gspn_adjoint, gspn_gates, gspn_gates_adjoint

if TYPE_CHECKING:
    import torch


def oracle(
    attrs: Mapping[str, Any],
    state: torch.dtype,
    *,
    dh: torch.Tensor,
    x: torch.Tensor,
    lam: torch.Tensor,
    logits: torch.Tensor,
) -> dict[str, torch.Tensor]:
    gates = gspn_gates.oracle(attrs, state, logits=logits)["gates"]
    h = gspn.oracle(attrs, state, x=x, lam=lam, gates=gates)["h"]
    found = gspn_adjoint.oracle(attrs, state, x=x, lam=lam, gates=gates, dh=dh, h=h)
    dlogits = gspn_gates_adjoint.oracle(attrs, state, logits=logits, dgates=found.pop("dgates"))
    return {**found, **dlogits}
