"""treadle models"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from treadle.cli.output import Reply, table, working


def models() -> Reply:
    """List the model graphs, their configurations and parameter counts."""
    from treadle.catalog import parameters
    from treadle.models import SYSTEMS, build, configurations

    found: list[dict[str, Any]] = []
    with working("counting parameters") as say:
        for system in SYSTEMS:
            for name, config in configurations(system).items():
                say(f"counting parameters of {system}:{name}")
                graph = build(system, name)
                found.append(
                    {
                        "model": f"{system}:{name}",
                        "parameters": parameters(graph),
                        "nodes": len(graph.nodes),
                        "configuration": asdict(config),
                    }
                )
    rows = [
        (
            f["model"],
            f"{f['parameters']:,}",
            f["nodes"],
            ", ".join(f"{k} {v}" for k, v in f["configuration"].items() if not isinstance(v, bool)),
        )
        for f in found
    ]
    return Reply(found, [table(["model", ">parameters", ">nodes", "configuration"], rows)])
