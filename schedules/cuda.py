"""Finds the CUDA schedules of a Program by its name: `scan.gspn` has its schedules in `schedules/scan/gspn/`.

The package of an operation lists them in `ORDER`; the first that applies is the default, unless the package has a function
`first(program)` that names another for the sizes that are known. Schedules that cannot be made serial are not emulated.
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
        package = importlib.import_module(home)
        first = getattr(package, "first", lambda program: None)(program)
        order = sorted(package.ORDER, key=lambda name: name != first)
    except ModuleNotFoundError as missing:
        if not home.startswith(str(missing.name)):
            raise
        order = []
    modules = [importlib.import_module(f"{home}.{name}") for name in order]
    if target.kind == "emulate":
        modules = [m for m in modules if m.SERIAL]
    found = [Space(m, program, target) for m in modules if m.applies(program)]  # type: ignore[arg-type]
    if not found:
        raise ToolchainError(
            f"{program.name} has no CUDA schedule yet", given=target.name, expected="target cpu", hint="see `treadle list`"
        )
    return found
