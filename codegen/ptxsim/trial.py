"""Kernels bound and not run: what the machine would refuse of them, down to modifiers and operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle.codegen.ptxsim import bind
from treadle.codegen.ptxsim.device_memory import DeviceMemory
from treadle.codegen.ptxsim.hazards import UnknownOpcode
from treadle.codegen.ptxsim.inline import flatten
from treadle.codegen.ptxsim.machine import Machine, Step
from treadle.codegen.ptxsim.pages import reserve
from treadle.codegen.ptxsim.syntax import Function, Instr, Module

_BASE, _SHARED = 1 << 40, 64 << 10


class _Trial(Machine):
    """A machine that notes what it cannot bind."""

    def __init__(self, *launch: Any) -> None:
        self.refused: set[tuple[int, str]] = set()
        super().__init__(*launch)

    def bound(self, instr: Instr) -> Step:
        try:
            return super().bound(instr)
        except UnknownOpcode:
            self.refused.add((instr.line, instr.name))
            return bind.PURE, None, None


def known(module: Module) -> Callable[[Instr], bool]:
    """Whether the machine takes an instruction of the module: as part of the kernels that it occurs in."""
    memory = DeviceMemory(reserve(2 * DeviceMemory.TOP), _BASE)
    symbols = memory.symbols(module)
    refused: set[tuple[int, str]] = set()
    for function in module.functions.values():
        if function.entry:
            refused |= _refused(module, function, memory, symbols)
    return lambda instr: bind.known(instr) and (instr.line, instr.name) not in refused


def _refused(module: Module, function: Function, memory: DeviceMemory, symbols: dict[str, int]) -> set[tuple[int, str]]:
    flat = flatten(module, function.name)
    cluster = function.cluster or (1, 1, 1)
    block = function.required_threads or (128, 1, 1)
    return _Trial(module, flat, cluster, block, cluster, _SHARED, memory, symbols, module.target).refused
