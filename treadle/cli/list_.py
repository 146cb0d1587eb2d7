"""treadle list"""

from __future__ import annotations

from typing import Any

from treadle.cli.output import Reply, table


def list_programs() -> Reply:
    """List the programs: dtypes, adjoint, and the schedules of each target with their state."""
    from treadle.catalog import TARGETS, schedules
    from treadle.ir import definitions

    found: list[dict[str, Any]] = [
        {
            "program": d.name,
            "dtypes": list(d.dtypes),
            "adjoint": d.adjoint,
            "schedules": {target: schedules(d, target) for target in TARGETS},
        }
        for d in definitions().values()
    ]
    rows = [
        (
            f["program"],
            ", ".join(f["dtypes"]),
            *(", ".join(f"{s['name']} ({s['state']})" for s in f["schedules"][target]) or "-" for target in TARGETS),
            f["adjoint"] or "-",
        )
        for f in found
    ]
    return Reply(found, [table(["program", "dtypes", *(f"on {target}" for target in TARGETS), "adjoint"], rows), _STATES])


_STATES = (
    "proven: run on the target, held by `treadle check`; emulated: threads made serial and run on the CPU, held by "
    "`treadle check --target emulate:sm_90a`; compiled: cannot be emulated, seen by the compiler alone"
)
