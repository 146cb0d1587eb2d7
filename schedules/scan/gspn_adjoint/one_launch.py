"""scan.gspn_adjoint: what schedules/scan/gspn/one_launch.py is to the forward, to be measured against."""

from treadle.schedules.scan.gspn.one_launch import SERIAL, Knobs, applies, default, legal, schedule

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]
