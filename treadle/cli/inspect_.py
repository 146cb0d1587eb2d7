"""treadle inspect BUNDLE [--stage STAGE [--coverage]]"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from treadle.cli.failure import UsageError
from treadle.cli.output import Reply, escaped, table
from treadle.cli.units import size
from treadle.errors import ArchError, BundleError, UnknownNameError
from treadle.runtime.bundle import Bundle
from treadle.runtime.devices import architectures

_FILES = {
    "manifest": "manifest.json",
    "plan": "plan.json",
    "tir": "sources/kernels.tir.py",
    "cuda": "sources/kernels.cu",
    "report": "reports/kernels.json",
}
_STAGES = ("manifest", "plan", "te", "tir", "cuda", "ptx", "report")
_OF_CUDA = ("cuda", "ptx")


def inspect_bundle(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that `treadle compile` wrote.")],
    stage: Annotated[str | None, typer.Option("--stage", metavar="STAGE", help="|".join(_STAGES))] = None,
    coverage: Annotated[
        bool,
        typer.Option("--coverage", help="Of stage ptx: its opcodes, and whether `ptx:` targets run each; else exit code 1."),
    ] = False,
) -> Reply:
    """Look into a bundle: what it offers, or one stage of how it was made."""
    if stage is not None and stage not in _STAGES:
        raise UnknownNameError.unknown("stage", stage, _STAGES)
    if coverage and stage != "ptx":
        raise UsageError(
            "--coverage is of stage ptx", given=f"--stage {stage}" if stage else "no --stage", expected="--stage ptx"
        )
    opened = Bundle.open(bundle)
    if stage is None:
        return _summary(opened)
    if stage == "te":
        return _mathematics(opened)
    archs = _architectures(opened)
    if stage in _OF_CUDA and not archs:
        raise ArchError(
            f"bundle {opened.path}: holds no stage {stage}",
            given=f"targets {', '.join(x.target for x in opened.manifest.libraries)}",
            expected=f"one of {', '.join(_held(opened))}",
            hint=f"{stage} is a stage of CUDA targets.",
        )
    if coverage:
        return _coverage(opened, archs)
    if stage == "ptx":
        return _answer(opened, stage, texts := {a: _read(opened, f"sources/{a}.ptx") for a in archs}, list(texts.values()))
    if stage == "report" and archs:
        reports = [json.loads(_read(opened, f"reports/{a}.json")) for a in archs]
        return _answer(opened, stage, reports, [_usage(r) for r in reports])
    text = _read(opened, _FILES[stage])
    value = json.loads(text) if _FILES[stage].endswith(".json") else text
    return _answer(opened, stage, value, [text])


def _answer(bundle: Bundle, stage: str, value: Any, shown: list[RenderableType]) -> Reply:
    parts = [escaped(part.rstrip()) if isinstance(part, str) else part for part in shown]
    return Reply({"bundle": str(bundle.path), "stage": stage, "value": value}, parts)


def _architectures(bundle: Bundle) -> list[str]:
    return [arch for library in bundle.manifest.libraries for arch in architectures(library)]


def _held(bundle: Bundle) -> tuple[str, ...]:
    return tuple(s for s in _STAGES if s not in _OF_CUDA or _architectures(bundle))


def _usage(report: dict[str, Any]) -> RenderableType:
    """What the assembler said of an architecture's kernels; shared memory is static and, where it is fixed, dynamic."""
    rows = [
        (
            r["function"], r["schedule"], r["registers"], r["static_shared"] + (r["dynamic_shared"] or 0), r["stack"],
            r["spill_stores"] + r["spill_loads"], f"{r['occupancy']['share']:.0%}" if r["occupancy"] else "", r["waived"],
        )
        for r in report["kernels"]
    ]  # fmt: skip
    columns = ["kernel", "schedule", ">registers", ">shared", ">stack", ">spills", ">occupancy", "waived"]
    return table(columns, rows, f"{report['arch']}, as ptxas reports it; bytes")


def _coverage(bundle: Bundle, archs: list[str]) -> Reply:
    """What the PTX machine makes of each architecture's opcodes."""
    from treadle.codegen.ptxsim.coverage import coverage
    from treadle.codegen.ptxsim.parse import parse
    from treadle.codegen.ptxsim.trial import known

    modules = {a: parse(_read(bundle, file), file) for a in archs for file in [f"sources/{a}.ptx"]}
    found = {a: coverage(module, known(module)) for a, module in modules.items()}
    value = {
        a: {"covered": not c.missing, "opcodes": [{**asdict(o), "covered": o.covered} for o in c.opcodes]}
        for a, c in found.items()
    }
    shown: list[RenderableType] = []
    for arch, c in found.items():
        rows = [(o.name, o.count, "" if o.covered else f"unknown, first in line {o.line}") for o in c.opcodes]
        title = f"{arch}: " + (
            f"{len(c.missing)} of {len(rows)} opcodes unknown" if c.missing else f"all {len(rows)} opcodes covered"
        )
        shown.append(table(["opcode", ">uses", ""], rows, title))
    missing = any(c.missing for c in found.values())
    return Reply({"bundle": str(bundle.path), "stage": "ptx", "value": value}, shown, code=int(missing))


def _summary(bundle: Bundle) -> Reply:
    m = bundle.manifest
    tensors = [
        (entry.name, kind, t.name, t.dtype, f"[{', '.join(t.shape)}]")
        for entry in m.entries
        for kind, group in (("input", entry.inputs), ("output", entry.outputs))
        for t in group
    ]
    dims = [(n, f"{d.lo}..{d.hi}", d.step, ", ".join(d.one_of)) for n, d in m.dims.items()]
    files = [(name, size(s.size)) for name, s in bundle.sums.items()]
    shown: list[RenderableType] = [
        f"[bold]{escaped(m.name)}[/]  for {', '.join(x.target for x in m.libraries)}; {len(m.weights)} weights; "
        "all digests match",
        escaped("by " + ", ".join(f"{n} {v}" for n, v in m.producer.items())),
        "",
        table(["entry", "", "name", "dtype", "shape"], tensors),
    ]
    if dims:
        shown.append(table(["dimension", "bounds", ">multiple of", "only"], dims))
    shown.append(table(["file", ">size"], files))
    result = {
        "bundle": str(bundle.path),
        "manifest": json.loads(m.to_json()),
        "files": {name: s.size for name, s in bundle.sums.items()},
        "stages": list(_held(bundle)),
    }
    return Reply(result, shown)


def _mathematics(bundle: Bundle) -> Reply:
    """The Programs that the kernels' reports name. A bundle holds names, the compiler extra the definitions."""
    from treadle.catalog import attr_text
    from treadle.ir.registry import definition

    programs: dict[tuple[str, str, str], dict[str, Any]] = {}
    for kernel in json.loads(_read(bundle, _FILES["report"])):
        key = (kernel["program"], kernel["dtype"], attr_text(kernel["attrs"]))
        made = {k: kernel[k] for k in ("program", "dtype", "attrs")}
        entry = programs.setdefault(key, {**made, "math": definition(kernel["program"]).math, "kernels": 0})
        entry["kernels"] += 1
    shown: list[RenderableType] = []
    for (name, dtype, attributes), entry in programs.items():
        shown.append(escaped(f"{name} {dtype}  {attributes}  kernels: {entry['kernels']}"))
        shown += [escaped(f"    {entry['math']}"), ""]
    return Reply({"bundle": str(bundle.path), "stage": "te", "value": list(programs.values())}, shown)


def _read(bundle: Bundle, file: str) -> str:
    if file not in bundle.sums:
        raise BundleError(
            f"bundle {bundle.path}: {file} is missing", hint=f"Rebuild it with `treadle compile ... -o {bundle.path}`."
        )
    return (bundle.path / file).read_text()
