"""PTX for the tests of the reader: what nvcc makes of reading/*.cu, and syntax trees written out again."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from treadle.codegen import nvcc
from treadle.codegen.ptxsim.syntax import (
    Addr,
    Function,
    Imm,
    Instr,
    Module,
    Not,
    Operand,
    Pair,
    Reg,
    Source,
    Sym,
    Variable,
    Vec,
)
from treadle.errors import ToolchainError

FOLDER = Path(__file__).with_name("reading")
HEAD = ".version 9.0\n.target sm_90a\n.address_size 64\n"


@cache
def compiled(name: str, *flags: str) -> str:
    """The PTX of reading/`name`.cu."""
    try:
        found = nvcc.find()
    except ToolchainError as missing:
        pytest.skip(str(missing))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "made.ptx"
        command = [found.path, "-std=c++17", "-arch=sm_90a", "-w", *flags, "-ptx", str(FOLDER / f"{name}.cu"), "-o", str(out)]
        subprocess.run(command, check=True, env=nvcc.environment(), cwd=folder)
        return out.read_text()


def written(module: Module) -> str:
    """A module as PTX text. Names that the parser made unique become names that PTX can have."""
    files = sorted({s.file for f in module.functions.values() for i in f.body for s in _chain(i.source)})
    lines = [f".version {module.version[0]}.{module.version[1]}", f".target {module.target}", ".address_size 64"]
    lines += [f'.file {n} "{file}"' for n, file in enumerate(files, 1)]
    lines += [f"{_variable(v)};" for v in module.variables]
    callees = {i.operands[1].name for f in module.functions.values() for i in f.body if i.opcode == "call"}
    lines += [f".func {c};" for c in sorted(callees) if c[0] != "%"]
    for f in module.functions.values():
        lines += _function(f, files)
    return "\n".join(lines).replace("@", "__at__").replace("<guard>", "@") + "\n"


def bare(module: Module) -> Module:
    """The same module without its place in a file, and with the names that `written` gives it."""

    def name(n: str) -> str:
        return n.replace("@", "__at__")

    def operand(o: Operand) -> Operand:
        match o:
            case Reg(n):
                return Reg(name(n))
            case Sym(n):
                return Sym(name(n))
            case Not(of):
                return Not(Reg(name(of.name)))
            case Vec(items):
                return Vec(tuple(map(operand, items)))
            case Pair(a, b):
                return Pair(operand(a), operand(b))
            case Addr(base, offset, rest):
                return Addr(operand(base), offset, tuple(map(operand, rest)))
        return o

    def instr(i: Instr) -> Instr:
        return replace(i, line=0, guard=i.guard and operand(i.guard), operands=tuple(map(operand, i.operands)))

    def function(f: Function) -> Function:
        return replace(
            f, registers={name(r): t for r, t in f.registers.items()}, body=tuple(map(instr, f.body)),
            variables=tuple(replace(v, name=name(v.name)) for v in f.variables),
            labels={name(l): at for l, at in f.labels.items()},
            branch_targets={name(t): tuple(map(name, ls)) for t, ls in f.branch_targets.items()},
        )  # fmt: skip

    return replace(module, name="", functions={n: function(f) for n, f in module.functions.items()})


def _function(f: Function, files: list[str]) -> Iterator[str]:
    kind = ".entry" if f.entry else f".func ({', '.join(map(_variable, f.returns))})"
    yield f"{kind} {f.name} ({', '.join(map(_variable, f.params))})"
    for directive, shape in ((".maxntid", f.max_threads), (".reqntid", f.required_threads), (".reqnctapercluster", f.cluster)):
        if shape:
            yield f"{directive} {', '.join(map(str, shape))}"
    yield "{"
    parameters = {v.name for v in (*f.params, *f.returns)}
    yield from (f".reg .{kind} {name};" for name, kind in f.registers.items() if name not in parameters)
    yield from (f"{_variable(v)};" for v in f.variables)
    prototypes = {i.operands[3].name for i in f.body if i.opcode == "call" and len(i.operands) > 3}
    yield from (f"{p}: .callprototype _ ();" for p in prototypes)
    source = None
    for at in range(len(f.body) + 1):
        yield from (f"{label}:" for label, index in f.labels.items() if index == at)
        if at < len(f.body):
            if f.body[at].source != source:
                source = f.body[at].source
                yield from _locations(source, files)
            yield _instr(f.body[at])
    yield from (f"{name}: .branchtargets {', '.join(labels)};" for name, labels in f.branch_targets.items())
    yield "}"


def _chain(source: Source | None) -> Iterator[Source]:
    while source:
        yield source
        source = source.caller


def _locations(source: Source, files: list[str]) -> Iterator[str]:
    """The line that called first, for what is inlined into it refers to it."""
    place = f"{files.index(source.file) + 1} {source.line} 0"
    if source.caller is None:
        yield f".loc {place}"
    else:
        yield from _locations(source.caller, files)
        yield f".loc {place}, function_name f, inlined_at {files.index(source.caller.file) + 1} {source.caller.line} 0"


def _variable(v: Variable) -> str:
    if v.space == "reg":
        return f".reg .{v.type} {v.name}"
    size = f"[{v.count or ''}]" if v.count != 1 else ""
    text = f"{'.extern ' if v.extern else ''}.{v.space} .align {v.align} .{v.type} {v.name}{size}"
    if not v.init:
        return text
    width = v.bytes // v.count
    parts = [v.init[i : i + width] for i in range(0, len(v.init), width)]
    values = [
        _float(int.from_bytes(p, "little"), 8 * width) if v.type[0] == "f" else int.from_bytes(p, "little") for p in parts
    ]
    return f"{text} = {{{', '.join(map(str, values))}}}"


def _instr(i: Instr) -> str:
    guard = f"<guard>{_operand(i.guard)} " if i.guard else ""
    if i.opcode == "call":
        results, callee, arguments, *rest = i.operands
        parts = [_operand(callee), f"({', '.join(map(_operand, arguments.items))})", *map(_operand, rest)]
        parts = [f"({', '.join(map(_operand, results.items))})", *parts] if results.items else parts
        return f"{guard}{i.name} {', '.join(parts)};"
    return f"{guard}{i.name} {', '.join(map(_operand, i.operands))};"


def _operand(o: Operand) -> str:
    match o:
        case Imm(value, 0):
            return str(value)
        case Imm(value, width):
            return _float(value, width)
        case Not(of):
            return f"!{of.name}"
        case Vec(items):
            return f"{{{', '.join(map(_operand, items))}}}"
        case Pair(a, b):
            return f"{_operand(a)}|{_operand(b)}"
        case Addr(base, offset, rest):
            coordinates = f", {_operand(Vec(rest))}" if rest else ""
            return f"[{_operand(base)}+{offset}{coordinates}]"
    return o.name


def _float(bits: int, width: int) -> str:
    return f"0{'f' if width == 32 else 'd'}{bits:0{width // 4}X}"


def float_of(imm: Imm) -> float:
    """The number that an immediate's bits are."""
    return struct.unpack("<f" if imm.float_width == 32 else "<d", imm.value.to_bytes(imm.float_width // 8, "little"))[0]
