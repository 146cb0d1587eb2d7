"""scan.gspn_adjoint beside the written-out gradients in torch and the autograd of a compiled step."""

from __future__ import annotations

from collections.abc import Callable

from treadle.bench.report import Report
from treadle.bench.scan import gspn


def measure(target: str, progress: Callable[[str], None]) -> Report:
    """As scan.gspn is measured; states are at hand on both sides."""
    return gspn.measure(target, progress, "scan.gspn_adjoint")
