"""What a PTX module says, as read: nothing here knows what an opcode does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias


@dataclass(frozen=True, slots=True)
class Reg:
    """A register or a special register, by its name with the percent sign: `%r1`, `%tid.x`."""

    name: str


@dataclass(frozen=True, slots=True)
class Imm:
    """A number: an integer as written, or the bits of a float of `float_width` bits (32: 0f..., 64: 0d... or decimal)."""

    value: int
    float_width: int = 0


@dataclass(frozen=True, slots=True)
class Sym:
    """A name: a variable, a label or a function."""

    name: str


@dataclass(frozen=True, slots=True)
class Not:
    """A negated predicate: `!%p1`."""

    of: Reg


@dataclass(frozen=True, slots=True)
class Vec:
    """`{a, b, ...}`; `_` among them is a Reg named `_`."""

    items: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """`a|b`: two results, as shfl and setp write them."""

    first: Operand
    second: Operand


@dataclass(frozen=True, slots=True)
class Addr:
    """`[base + offset]`, and `[base, {c0, c1}]` of a tensor copy, whose coordinates (and im2col offsets) are `rest`."""

    base: Operand
    offset: int = 0
    rest: tuple[Operand, ...] = ()


Operand: TypeAlias = Reg | Imm | Sym | Not | Vec | Pair | Addr


class Source(NamedTuple):
    """A line of what nvcc compiled; of a function inlined elsewhere, `caller` is the line that called it."""

    file: str
    line: int
    caller: Source | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f", inlined at {self.caller}" if self.caller else "")


def elements(operand: Operand) -> Sequence[Operand]:
    """The elements of `{...}`, or the operand alone."""
    return operand.items if isinstance(operand, Vec) else (operand,)


@dataclass(frozen=True, slots=True)
class Instr:
    """One instruction: `@!%p add.rn.f32 ...` has opcode `add`, mods `("rn", "f32")`, guard `Not(Reg("%p"))`."""

    opcode: str
    mods: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Reg | Not | None = None
    line: int = 0  # in the PTX text, from 1
    source: Source | None = None  # the .loc before it

    @property
    def name(self) -> str:
        """The opcode with its modifiers, as written."""
        return ".".join((self.opcode, *self.mods))

    @property
    def where(self) -> str:
        """The line of the source where nvcc was asked for it (-lineinfo), else of the PTX."""
        return str(self.source) if self.source else f"PTX line {self.line}"


@dataclass(frozen=True, slots=True)
class Variable:
    """A declared variable or parameter: `.shared .align 16 .b8 tile[1024]` has type b8 and count 1024; count 0 is `[]`."""

    space: str  # global, shared, const, local, param
    name: str
    type: str
    count: int = 1
    align: int = 1
    init: bytes = b""
    extern: bool = False

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.count * (int(self.type.lstrip("busf")) // 8)


@dataclass(frozen=True)
class Function:
    """An entry or a device function. Labels name the index of the instruction that they stand before."""

    name: str
    entry: bool
    params: tuple[Variable, ...]
    returns: tuple[Variable, ...]
    registers: Mapping[str, str]  # name -> type: u32, b64, f32, pred, ...
    variables: tuple[Variable, ...]  # declared inside: shared, local
    body: tuple[Instr, ...]
    labels: Mapping[str, int]
    branch_targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of brx.idx: name -> labels
    max_threads: tuple[int, int, int] | None = None  # .maxntid
    required_threads: tuple[int, int, int] | None = None  # .reqntid
    cluster: tuple[int, int, int] | None = None  # .reqnctapercluster


@dataclass(frozen=True)
class Module:
    """A whole PTX file."""

    name: str
    version: tuple[int, int]
    target: str
    variables: tuple[Variable, ...]
    functions: Mapping[str, Function]
