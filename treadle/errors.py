"""Every error treadle raises on purpose.

One shape for all of them: what went wrong and where (`message`), what was
`given`, what was `expected`, and the next step (`hint`).  The command line
prints the same four fields as JSON, so nothing has to be parsed out of prose.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class TreadleError(Exception):
    """Base of all treadle errors; catching it catches everything we raise on purpose."""

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        given: Any = None,
        expected: Any = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.given = given
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        facts = [f"{label} {fact}" for label, fact in (("given", self.given), ("expected", self.expected)) if fact is not None]
        sentence = self.message.rstrip(".")
        if facts:
            sentence += ": " + ", ".join(facts)
        sentence += "."
        if not self.hint:
            return sentence
        return f"{sentence} {self.hint}" if self.hint.endswith((".", "?")) else f"{sentence} {self.hint}."

    def to_json(self) -> dict[str, Any]:
        """The same error as plain JSON values."""
        return {
            "type": type(self).__name__,
            "message": self.message,
            "given": _plain(self.given),
            "expected": _plain(self.expected),
            "hint": self.hint,
        }


class ArgumentError(TreadleError, ValueError):
    """A value that can never be right: wrong type, dtype, rank, shape or stride."""


class UnknownNameError(TreadleError):
    """A name that does not exist; the message lists those that do."""

    exit_code = 2

    @classmethod
    def unknown(cls, kind: str, given: str, known: Iterable[str], *, where: str | None = None) -> UnknownNameError:
        """`given` is not among `known`: list what exists and offer the nearest name."""
        names = list(known)
        nearest = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
        prefix = f"{where}: " if where else ""
        return cls(
            f"{prefix}unknown {kind}",
            given=repr(given),
            expected=f"one of {', '.join(names)}" if names else f"none, there is no {kind} here",
            hint=f"Did you mean {nearest[0]!r}?" if nearest else None,
        )


class BoundsError(TreadleError):
    """A size outside the bounds something was compiled for."""


class AlignmentError(TreadleError):
    """An address the kernels cannot use."""


class BundleError(TreadleError):
    """A bundle that is damaged, incomplete, or written for another schema."""


class ArchError(TreadleError):
    """Code compiled for a machine that is not this one."""


class ToolchainError(TreadleError):
    """A compiler or library needed to build is missing, wrong, or failed."""


class DeviceError(TreadleError):
    """A device that is absent, busy, or not the one the arrays live on."""


def _plain(value: Any) -> Any:
    """`value` as JSON: numbers and strings as they are, containers element by element."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)
