"""Oracle of scan.gspn_logits: the two oracles one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.ir.oracles.scan import gspn, gspn_gates

if TYPE_CHECKING:
    import torch


def oracle(
    attrs: Mapping[str, Any], state: torch.dtype, *, x: torch.Tensor, lam: torch.Tensor, logits: torch.Tensor
) -> dict[str, torch.Tensor]:
    gates = gspn_gates.oracle(attrs, state, logits=logits)["gates"]
    return gspn.oracle(attrs, state, x=x, lam=lam, gates=gates)
