"""CPU schedules: a correct, vectorised, threaded mapping for every Program.

The first schedule in `ORDER` that applies to a Program is its default.
"""

from __future__ import annotations

from treadle.errors import TreadleError
from treadle.ir import Program
from treadle.schedules.cpu import (
    attention,
    contraction,
    conv,
    conv_update,
    row_blocks,
    rows,
    scan_line,
    scan_tile,
    selective,
    ssd,
    ssd_adjoint,
    state_update,
    sweep,
    transpose,
)
from treadle.schedules.space import Schedule, Space
from treadle.schedules.target import Target

ORDER: tuple[Schedule, ...] = (scan_tile, scan_line, row_blocks, conv, conv_update, attention, ssd, ssd_adjoint, state_update, contraction, transpose, rows)  # type: ignore[assignment]


def spaces(program: Program, target: Target) -> list[Space]:
    """The schedules that fit a Program, the default one first."""
    order = (selective,) if selective.applies(program) else (sweep,) if program.sweep else ORDER
    found = [Space(module, program, target) for module in order if module.applies(program)]  # type: ignore[arg-type]
    if not found:
        raise TreadleError(f"no CPU schedule fits {program.name}", given=dict(program.attrs))
    return found
