"""What the machine refuses: each error says in which kernel, CTA and thread, at which address and line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from treadle.codegen.ptxsim.syntax import Instr
from treadle.errors import DeviceError, ToolchainError


class UnknownOpcode(ToolchainError):
    """PTX that the machine does not know: an opcode, a modifier, a form of operand. Never guessed at."""


def refuse(instr: Instr, what: str = "no such instruction in the machine's table") -> UnknownOpcode:
    """The error for PTX that is not understood."""
    return UnknownOpcode(
        f"{instr.where}: {what}", given=instr.name, expected="an opcode of docs/ptx.md's table",
        hint="The machine never guesses; the table grows with need.",
    )  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a hazard was met. `source` is file and line under -lineinfo, else the line of the PTX."""

    kernel: str
    cta: tuple[int, int, int]
    thread: tuple[int, int, int]
    source: str
    instruction: str

    def __str__(self) -> str:
        return f"kernel {self.kernel}, CTA {self.cta}, thread {self.thread}, {self.source}, {self.instruction}"


class HazardError(DeviceError):
    """Something that a GPU might let pass and that is wrong all the same."""

    def __init__(self, message: str, *, place: Place | None = None, address: int | None = None, **facts: Any) -> None:
        super().__init__(f"{place}: {message}" if place else message, **facts)
        self.place = place
        self.address = address

    def __reduce__(self) -> tuple[Any, ...]:  # it crosses from a worker process whole
        return _again, (type(self), self.message, self.place, self.address, self.given, self.expected, self.hint)


def _again(kind: type[HazardError], message: str, place: Place | None, address: int | None, *facts: Any) -> HazardError:
    made = kind(message, address=address, given=facts[0], expected=facts[1], hint=facts[2])
    made.place = place
    return made


class BoundsHazard(HazardError):
    """An address outside every allocation."""


class MisalignedHazard(HazardError):
    """An address that is no multiple of what is accessed there."""


class UninitialisedHazard(HazardError):
    """A read of bytes that nobody wrote."""


class RaceHazard(HazardError):
    """Two accesses, one of them a write, that nothing orders."""


class DivergenceHazard(HazardError):
    """Threads that had to act together and did not."""


class DeadlockHazard(HazardError):
    """Nobody can go on."""


class PhaseHazard(HazardError):
    """An mbarrier whose phase, arrivals or bytes do not add up."""


class ProxyHazard(HazardError):
    """An asynchronous engine that may not see what was written for it."""


class PendingHazard(HazardError):
    """Bytes or registers that an asynchronous operation still holds."""


class TrapHazard(HazardError):
    """The kernel itself gave up: trap, or an assertion."""
