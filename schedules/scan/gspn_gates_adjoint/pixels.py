"""Pixels: the mapping of scan.gspn_gates, with the gradients of the gates beside the logits. Nine planes cross the bus once.

Compiler's report: `treadle inspect --stage report`. Nothing was timed.
"""

from __future__ import annotations

from treadle.schedules.scan.gspn_gates.pixels import SERIAL, Knobs, applies, default, legal, schedule

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]
