"""All cases of our test kernels."""

from __future__ import annotations

from . import cases_arithmetic, cases_copies, cases_matrix, cases_threads
from .case import CASES, Case, Device, Result

__all__ = ["CASES", "Case", "Device", "Result", "cases_arithmetic", "cases_copies", "cases_matrix", "cases_threads"]
