"""Windows, as schedules/scan/conv_windows.py maps them."""

from __future__ import annotations

from treadle.schedules.scan.conv_windows import SERIAL, Knobs, applies, default, legal, schedule

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]
