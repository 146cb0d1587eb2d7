"""treadle check [PROGRAM...]"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import RenderableType

from treadle.cli import flags
from treadle.cli.output import Reply, escaped, table, working

_MISMATCH = 3


def check(
    programs: Annotated[list[str] | None, typer.Argument(metavar="[PROGRAM]...", help="All programs unless named.")] = None,
    target: flags.Target = "cpu",
    cases: Annotated[int, typer.Option("--cases", min=1, help="Random cases per program.")] = 50,
    seed: flags.Seed = 0,
) -> Reply:
    """Hold programs against their float64 oracles on random, awkward cases; exit 3 on any mismatch."""
    with working("loading the compiler") as say:
        from treadle.check import sweep

        verdicts = sweep(programs or None, target, cases, seed, say)

    rows = [(v.program, v.cases, v.kernels, v.points, len(v.mismatches), f"{v.worst:.3f}") for v in verdicts]
    wrong = [m for v in verdicts for m in v.mismatches]
    shown: list[RenderableType] = [
        table(["program", ">cases", ">kernels", ">points", ">mismatches", ">worst error / bound"], rows)
    ]
    shown += [escaped(f"{m}") for m in wrong[:10]]
    if len(wrong) > 10:
        shown.append(f"and {len(wrong) - 10} more; --json lists all")
    total, kernels, points = (sum(getattr(v, what) for v in verdicts) for what in ("cases", "kernels", "points"))
    shown.append(
        f"{total} cases with seed {seed} on {target}, by {kernels} distinct kernels at {points} distinct points: "
        f"{len(wrong)} mismatches"
    )
    result = {
        "target": target,
        "seed": seed,
        "cases": total,
        "kernels": kernels,
        "points": points,
        "mismatches": len(wrong),
        "programs": [asdict(v) for v in verdicts],
    }
    return Reply(result, shown, _MISMATCH if wrong else 0)
