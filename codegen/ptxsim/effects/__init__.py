"""Instructions that do more than map registers to registers: memory, threads together, asynchronous engines.

A file registers a binder per opcode. It is called once per instruction and returns what runs for a gang; that returns the
mask of threads which must wait at the instruction, or None.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.gang import Gang
    from treadle.codegen.ptxsim.machine import Machine
    from treadle.codegen.ptxsim.syntax import Instr

Step: TypeAlias = "Callable[[Gang], NDArray[np.bool_] | None]"
Binder: TypeAlias = "Callable[[Instr, Machine], Step]"

_TABLE: dict[str, Binder] = {}


def effect(*opcodes: str) -> Callable[[Binder], Binder]:
    """Registers the binder of opcodes. `bulk.` forms and the like are the longest match: cp.async.bulk before cp.async."""

    def register(binder: Binder) -> Binder:
        for opcode in opcodes:
            _TABLE[opcode] = binder
        return binder

    return register


def find(instr: Instr) -> Binder | None:
    """The binder of an instruction: the registered name with the most modifiers that begins its name."""
    if not _TABLE:
        for file in iter_modules(__path__):
            import_module(f"{__name__}.{file.name}")
    parts = (instr.opcode, *instr.mods)
    for length in range(len(parts), 0, -1):
        if found := _TABLE.get(".".join(parts[:length])):
            return found
    return None
