"""treadle bench [PROGRAM|MODEL...]"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from treadle.cli import flags
from treadle.cli.output import Reply, table, working


def bench(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROGRAM|MODEL]...", help="scan.gspn, gemm.linear, cgspn:CONFIG or plan, all unless named; or ptx."),
    ] = None,
    target: flags.Target = "cpu",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Also write the result as JSON.")
    ] = None,
) -> Reply:
    """Measure kernels, models and the plan, beside torch and the machine's copy bandwidth."""
    with working("loading the compiler") as say:
        from treadle.bench import run

        reports = run(what, target, say)

    result = [r.to_json() for r in reports]
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n")
    shown: list[RenderableType] = []
    for r in reports:
        shown += [table(r.columns, r.cells(), r.title), *(f"  {line}" for line in r.remarks), ""]
    return Reply(result, shown)
