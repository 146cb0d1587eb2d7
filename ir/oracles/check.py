"""The one tolerance: a kernel may be as wrong as twice the same mathematics in float32, plus the rounding of its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Verdict:
    """The largest deviation from the float64 oracle, what is allowed, and whether it holds."""

    error: float
    bound: float
    ok: bool


def compare(y: Tensor, y64: Tensor, t32: Tensor, eps: float) -> Verdict:
    """Hold a result against the oracle in float64 and in float32; `eps` is the spacing at one of the result's dtype.

    max|y - y64| <= 2 max|t32 - y64| + eps max|y64|. A result of another shape, or with a NaN the oracle does not have, fails.
    """
    if y.shape != y64.shape:
        return Verdict(float("inf"), 0.0, False)
    if y64.numel() == 0:
        return Verdict(0.0, 0.0, True)
    bound = 2 * _worst(t32, y64) + eps * float(y64.abs().max())
    error = _worst(y, y64)
    return Verdict(error, bound, error <= bound)


def _worst(y: Tensor, y64: Tensor) -> float:
    return float((y.double() - y64).abs().max())
