"""Where a kernel's variables and parameters lie in shared, local and parameter memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from treadle.codegen.ptxsim.syntax import Function, Module

#: Address 0 is nobody's, as on the device, where the system keeps the first KiB of shared memory.
FIRST = 1024
#: Between variables of shared memory, and of local: an index one past an array's end meets nobody else's bytes.
GAP, LOCAL_GAP = 128, 16


@dataclass
class Layout:
    """Name -> (offset, bytes) of each space, and the ranges of shared memory that may be touched."""

    shared: dict[str, tuple[int, int]] = field(default_factory=dict)
    local: dict[str, tuple[int, int]] = field(default_factory=dict)
    params: dict[str, tuple[int, int]] = field(default_factory=dict)
    shared_end: int = FIRST
    local_bytes: int = 0
    param_bytes: int = 0
    static_shared: int = 0

    @property
    def shared_ranges(self) -> list[tuple[int, int]]:
        """Offset and length of every variable."""
        return list(self.shared.values())


def layout(module: Module, entry: Function, dynamic: int) -> Layout:
    """The layout of one launch with `dynamic` bytes of dynamic shared memory."""
    made = Layout()
    declared = [v for v in (*module.variables, *entry.variables) if v.space == "shared"]
    for v in declared:
        if v.count:
            at = _up(made.shared_end, v.align)
            made.shared[v.name] = at, v.bytes
            made.shared_end = at + v.bytes + GAP
            made.static_shared = _up(made.static_shared, v.align) + v.bytes
    open_ended = [v for v in declared if not v.count]
    at = _up(made.shared_end, max([16, *(v.align for v in open_ended)]))
    for v in open_ended:  # all of them begin at the same address
        made.shared[v.name] = at, dynamic
    made.shared_end = at + dynamic
    for v in entry.variables:
        if v.space == "local":
            at = _up(made.local_bytes, v.align)
            made.local[v.name] = at, v.bytes
            made.local_bytes = at + v.bytes + LOCAL_GAP
    for v in entry.params:
        at = _up(made.param_bytes, v.align)
        made.params[v.name] = at, v.bytes
        made.param_bytes = at + v.bytes
    return made


def _up(at: int, align: int) -> int:
    return -(-at // max(align, 1)) * max(align, 1)


def smallest_access(entry: Function) -> int:
    """Bytes of the smallest access to memory: what races are told apart by."""
    least = 4
    for instr in entry.body:
        if instr.opcode in ("ld", "st", "atom", "red", "ldu") and instr.mods[-1][1:].isdigit():
            least = min(least, int(instr.mods[-1][1:]) // 8)
        elif instr.opcode in ("st", "ld") and instr.mods[-1] in ("f16", "bf16"):
            least = min(least, 2)
    return least
