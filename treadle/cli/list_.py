"""treadle list"""

from __future__ import annotations

from typing import Any

from treadle.cli.output import Reply, table


def list_programs() -> Reply:
    """List the programs: dtypes, adjoint, and the schedules of each target with their state."""
    from treadle.catalog import schedules
    from treadle.ir import definitions

    found: list[dict[str, Any]] = [
        {"program": d.name, "dtypes": list(d.dtypes), "adjoint": d.adjoint, "schedules": {"cpu": schedules(d)}}
        for d in definitions().values()
    ]
    rows = [
        (
            f["program"],
            ", ".join(f["dtypes"]),
            ", ".join(f"{s['name']} ({s['state']})" for s in f["schedules"]["cpu"]),
            f["adjoint"] or "-",
        )
        for f in found
    ]
    return Reply(found, [table(["program", "dtypes", "schedules on cpu", "adjoint"], rows)])
