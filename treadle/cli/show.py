"""treadle show PROGRAM"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.padding import Padding

from treadle.cli import flags
from treadle.cli.output import Reply, escaped, table


def show(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help="A name of `treadle list`.")],
    dtype: flags.DType = "float32",
    attr: flags.Attrs = None,
) -> Reply:
    """Show a program: mathematics, arguments, attributes, dimensions, cost, and the knobs of its schedules."""
    from treadle.catalog import describe_program
    from treadle.ir import build
    from treadle.ir.registry import definition

    values = flags.attrs(attr, {n: a.default for n, a in definition(program).attrs.items()})
    facts = describe_program(build(program, dtype, values))
    return Reply(facts, _shown(facts))


def _shown(facts: dict[str, Any]) -> list[RenderableType]:
    tensors = [(kind[:-1] + (", updated" if t.get("updated") else ""), t) for kind in ("arguments", "results") for t in facts[kind]]
    shown: list[RenderableType] = [
        f"[bold]{facts['program']}[/]  {', '.join(facts['dtypes'])}",
        Padding(escaped(facts["math"]), (1, 2)),
        escaped(" ".join(facts["doc"].split())),
        "",
        f"source   {escaped(facts['source'])}",
        f"adjoint  {facts['adjoint'] or 'none'}",
        *(f"{what:<8} {escaped(facts['cost'][what])}" for what in ("bytes", "flops", "exps")),
        *(f"requires {escaped(message)}" for message in facts["preconditions"]),
        "",
        table(
            ["", "name", "dtype", "shape"], [(k, t["name"], t["dtype"], f"[{', '.join(t['shape'])}]") for k, t in tensors]
        ),
    ]
    if facts["attributes"]:
        rows = [(n, a["value"], _choices(a), a["doc"]) for n, a in facts["attributes"].items()]
        shown.append(table(["attribute", "value", "choices", "meaning"], rows))
    rows = [(n, f"{d['lo']}..{d['hi']}", d["step"], ", ".join(d["one_of"])) for n, d in facts["dims"].items()]
    shown.append(table(["dimension", "bounds", ">step", "only"], rows))
    for target, schedules in facts["schedules"].items():
        for s in schedules:
            knobs = [(k["name"], k["default"], ", ".join(map(str, k["choices"])), k["why"]) for k in s["knobs"]]
            title = escaped(f"{target}: {s['name']} ({s['state']}). {s['doc']}.")
            shown.append(table(["knob", "default", "choices", "why"], knobs, title) if knobs else f"[bold]{title}[/]")
    return shown


def _choices(attribute: dict[str, Any]) -> str:
    if attribute["choices"]:
        return ", ".join(map(str, attribute["choices"]))
    return f">= {attribute['minimum']}" if attribute["minimum"] is not None else "any"
