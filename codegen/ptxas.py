"""The assembler's report (`ptxas -v`), and the rule that no kernel spills.

A spill sends a register through memory: in a kernel meant to run at the speed of memory that is a defect, and it comes
without warning when a tile grows by one. So does a local array that the compiler could not keep in registers (`stack`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from treadle.codegen.cuda_source import Kernel
from treadle.errors import ToolchainError

#: (program, schedule) -> why its kernels may spill or use a stack, with what was measured. Callers waive by Program name.
WAIVED: Mapping[tuple[str, str], str] = {}

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_BARRIERS = re.compile(r"used (\d+) barriers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one architecture: registers a thread, the rest in bytes."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    static_shared: int
    barriers: int

    @property
    def spills(self) -> bool:
        return bool(self.stack or self.spill_stores or self.spill_loads)


def parse(log: str) -> dict[str, dict[str, Usage]]:
    """{architecture: {kernel: Usage}} of everything a log reports.

    Functions that a kernel calls are reported under it: their frames count as the kernel's.
    """
    found: dict[str, dict[str, Usage]] = {}
    _, *parts = _ENTRY.split(log)  # kernel, architecture, its lines, and again
    for kernel, arch, lines in zip(*[iter(parts)] * 3, strict=True):
        frames = [tuple(map(int, f)) for f in _FRAME.findall(lines)]
        stack, stores, loads = (max(column) for column in zip(*frames, strict=True)) if frames else (0, 0, 0)
        registers, shared, barriers = (_first(p, lines) for p in (_USED, _SHARED, _BARRIERS))
        found.setdefault(arch, {})[kernel] = Usage(registers, stack, stores, loads, shared, barriers)
    return found


def waiver(k: Kernel, names: Collection[str]) -> str | None:
    """Why a kernel may spill, where it may: its Program is among the names that the caller waived, or it is in the table."""
    return "by the caller" if k.of.program.name in names else WAIVED.get((k.of.program.name, k.of.schedule))


def refuse_spills(usage: Mapping[str, Mapping[str, Usage]], kernels: Iterable[Kernel], waived: Collection[str] = ()) -> None:
    """A ToolchainError that names every kernel that spills and is not waived."""
    bad, names = [], set()
    for k in kernels:
        if waiver(k, waived):
            continue
        for arch, used in usage.items():
            u = used[k.name]
            if u.spills:
                what = f"{u.stack} bytes of stack, {u.spill_stores} of spill stores, {u.spill_loads} of spill loads"
                bad.append(f"{k.of.program.name}, schedule {k.of.schedule}, {k.of.point}: kernel {k.name} on {arch} has {what}")
                names.add(k.of.program.name)
    if bad:
        raise ToolchainError(
            "a kernel keeps registers in memory",
            given="; ".join(bad),
            expected="no spills and no stack",
            hint="Choose a point with smaller tiles; or accept it, on the command line with "
            f"{' '.join(f'--waive {n}' for n in sorted(names))}, in Python with waive={sorted(names)}.",
        )


def _first(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.search(text)
    return int(match[1]) if match else 0
