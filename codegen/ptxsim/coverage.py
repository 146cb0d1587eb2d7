"""Which opcodes a module uses, and whether the machine knows each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from treadle.codegen.ptxsim.inline import OF_CUDA
from treadle.codegen.ptxsim.syntax import Instr, Module, Sym


@dataclass(frozen=True)
class Opcode:
    """An opcode with its modifiers: how often it is used, and the line of its first use that is not covered, if there is one."""

    name: str
    count: int
    line: int | None = None

    @property
    def covered(self) -> bool:
        """Whether the machine knows every use."""
        return self.line is None


@dataclass(frozen=True)
class Coverage:
    """The opcodes of a module, by name."""

    module: str
    opcodes: tuple[Opcode, ...]

    @property
    def missing(self) -> tuple[Opcode, ...]:
        """Those that are not covered."""
        return tuple(o for o in self.opcodes if not o.covered)


def coverage(module: Module, known: Callable[[Instr], bool]) -> Coverage:
    """What `module` uses, of which the binder says what it `known`s. Calls are the inliner's: it needs the callee's body."""
    counts: dict[str, int] = {}
    lines: dict[str, int] = {}
    for function in module.functions.values():
        for instr in function.body:
            counts[instr.name] = counts.get(instr.name, 0) + 1
            if instr.name not in lines and not (_inlined(instr, module) if instr.opcode == "call" else known(instr)):
                lines[instr.name] = instr.line
    return Coverage(module.name, tuple(Opcode(name, counts[name], lines.get(name)) for name in sorted(counts)))


def _inlined(call: Instr, module: Module) -> bool:
    callee = call.operands[1]
    return len(call.operands) == 3 and isinstance(callee, Sym) and (callee.name in module.functions or callee.name in OF_CUDA)
