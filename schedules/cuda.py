"""Finds the CUDA schedules of a Program by its name: `scan.gspn` has its schedules in `schedules/scan/gspn/`.

The package of an operation lists them in `ORDER`; the first that applies is the default.
"""

from __future__ import annotations

import importlib

from treadle.errors import ToolchainError
from treadle.ir import Program
from treadle.schedules.space import Space
from treadle.schedules.target import Target


def spaces(program: Program, target: Target) -> list[Space]:
    """The schedules that fit a Program, the default one first."""
    home = f"treadle.schedules.{program.name}"
    try:
        order = importlib.import_module(home).ORDER
    except ModuleNotFoundError as missing:
        if not home.startswith(str(missing.name)):
            raise
        order = ()
    modules = [importlib.import_module(f"{home}.{name}") for name in order]
    found = [Space(m, program, target) for m in modules if m.applies(program)]  # type: ignore[arg-type]
    if not found:
        raise ToolchainError(
            f"{program.name} has no CUDA schedule yet", given=target.name, expected="target cpu", hint="see `treadle list`"
        )
    return found
