"""Row teams, as schedules/norm/row_teams.py maps them."""

from __future__ import annotations

from treadle.schedules.norm.row_teams import SERIAL, Knobs, applies, default, legal, schedule

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]
