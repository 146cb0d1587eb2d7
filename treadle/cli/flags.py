"""The flags that several verbs share, and how their values are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar

import typer

from treadle.cli.failure import UsageError

T = TypeVar("T")

Target = Annotated[str, typer.Option("--target", help="The machine to compile for: cpu, cpu:native, cpu:x86-64-v4.")]
DType = Annotated[str, typer.Option("--dtype", help="float32, float16 or bfloat16.")]
Attrs = Annotated[list[str] | None, typer.Option("--attr", metavar="NAME=V", help="An attribute; may be repeated.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of all random numbers.")]

_RANGE = re.compile(r"(\d{1,18})(?:\.\.(\d{1,18}))?")


def pairs(flag: str, given: Iterable[str] | None, example: str) -> dict[str, str]:
    """["A=1", "B=2"] as a mapping."""
    found: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"malformed {flag}", given=repr(text), expected=f"NAME=VALUE, e.g. {flag} {example}")
        if name in found:
            raise UsageError(f"{flag} {name} is given twice", given=f"{found[name]} and {value}", expected="one value")
        found[name] = value
    return found


def dims(given: Iterable[str] | None) -> dict[str, int | tuple[int, int]]:
    """--dim H=224 fixes a dimension, --dim N=1..8 bounds it."""
    found: dict[str, int | tuple[int, int]] = {}
    for name, text in pairs("--dim", given, "H=224 or N=1..8").items():
        match = _RANGE.fullmatch(text)
        if not match:
            raise UsageError(f"malformed --dim {name}", given=repr(text), expected="a size N or a range LO..HI")
        lo, hi = match.groups()
        found[name] = int(lo) if hi is None else (int(lo), int(hi))
    return found


def attrs(given: Iterable[str] | None, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """--attr values read as the type of their default; names without one stay text, for the library to refuse."""
    return {name: _typed(name, text, type(defaults.get(name, ""))) for name, text in pairs("--attr", given, "chunk=16").items()}


def _typed(name: str, text: str, kind: type) -> Any:
    readers: dict[type, Callable[[str], Any]] = {
        bool: lambda t: {"true": True, "false": False}[t.lower()],
        int: int,
        float: float,
    }
    try:
        return readers.get(kind, str)(text)
    except (ValueError, KeyError):
        expected = "true or false" if kind is bool else f"a value of type {kind.__name__}"
        raise UsageError(f"malformed --attr {name}", given=repr(text), expected=expected) from None
