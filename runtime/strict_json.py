"""Reading JSON that a machine wrote: every surprise is an error that names its place.

`manifest.json` and `plan.json` decide what gets executed, so an unknown key, a
missing key, a duplicate key or a number where a string belongs is refused
instead of skipped.  The base install has no schema library; this is enough.

The rule, for every runtime: a document is UTF-8 without half surrogates, escaped or
not; it nests 64 levels at most below the top; no object has a key twice; a number is at
most 1000 characters long, and where an integer is wanted it has neither point nor
exponent.  tests/fuzz holds the readers in Python and in C++ to the same verdicts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from treadle.errors import BundleError

_DEPTH = 64
_NUMBER_CHARS = 1000
_KINDS = {dict: "an object", list: "an array", str: "a string", int: "an integer"}


@dataclass(frozen=True)
class Node:
    """A JSON value together with where it stands, e.g. ``manifest.json: entries[0].name``."""

    value: Any
    path: str
    source: str

    def fields(self, *names: str, maybe: str | None = None) -> list[Node]:
        """The values of an object that has exactly these keys, in this order; `maybe`, where it is there, comes last."""
        given = self._typed(dict)
        names = (*names, maybe) if maybe is not None and maybe in given else names
        for missing in (name for name in names if name not in given):
            self.refuse(f"lacks the key {missing!r}", given=sorted(given), expected=list(names))
        for extra in (key for key in given if key not in names):
            self.refuse(f"has an unknown key {extra!r}", given=sorted(given), expected=list(names))
        return [self._child(given[name], f".{name}") for name in names]

    def field(self, name: str) -> Node:
        """One value of an object, whatever else the object holds."""
        given = self._typed(dict)
        if name not in given:
            self.refuse(f"lacks the key {name!r}", given=sorted(given), expected=name)
        return self._child(given[name], f".{name}")

    def entries(self) -> Iterator[tuple[str, Node]]:
        """The (key, value) pairs of an object with free keys."""
        return ((key, self._child(v, f".{key}")) for key, v in self._typed(dict).items())

    def items(self) -> Iterator[Node]:
        """The elements of an array."""
        return (self._child(v, f"[{i}]") for i, v in enumerate(self._typed(list)))

    def string(self) -> str:
        text: str = self._typed(str)
        return text

    def strings(self) -> tuple[str, ...]:
        return tuple(item.string() for item in self.items())

    def integer(self, lo: int = 0, hi: int = 2**63 - 1) -> int:
        number: int = self._typed(int)
        if not lo <= number <= hi:
            self.refuse("is out of range", given=number, expected=f"{lo} to {hi}")
        return number

    def refuse(self, why: str, *, given: Any = None, expected: Any = None) -> NoReturn:
        """Raise BundleError for this place."""
        place = self.path.lstrip(".") or "the top level"
        raise BundleError(
            f"{self.source}: {place} {why}",
            given=given,
            expected=expected,
            hint="Write the bundle again with `treadle compile ... -o`.",
        )

    def _typed(self, kind: type) -> Any:
        # `type is`, not isinstance: JSON true would otherwise pass for the integer 1.
        if type(self.value) is not kind:
            self.refuse("has the wrong type", given=json.dumps(self.value)[:60], expected=_KINDS[kind])
        return self.value

    def _child(self, value: Any, step: str) -> Node:
        return Node(value, self.path + step, self.source)


def parse(data: bytes, source: str) -> Node:
    """The document in `data`; `source` is the file's name inside the bundle."""
    top = Node(None, "", source)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=lambda pairs: _unique(pairs, top),
            parse_constant=lambda name: top.refuse(f"holds {name}, which is not JSON"),
            parse_int=lambda text: int(_short(text, top)),
            parse_float=lambda text: float(_short(text, top)),
        )
        _check(value, top, 0)
    except (ValueError, RecursionError) as wrong:
        top.refuse(f"is not readable JSON ({wrong})")
    return Node(value, "", source)


def dump(value: Any) -> str:
    """The one way we write JSON: the same value always gives the same bytes."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _short(text: str, top: Node) -> str:
    if len(text) > _NUMBER_CHARS:
        top.refuse("is not readable JSON (a number too long)", given=f"{len(text)} characters", expected=f"{_NUMBER_CHARS}")
    return text


def _check(value: Any, top: Node, depth: int) -> None:
    """What Python's own reader lets pass: nesting, and strings that are no text."""
    if depth > _DEPTH:
        top.refuse("is not readable JSON (nested too deeply)", expected=f"{_DEPTH} levels at most")
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = [*value, *value.values()]
    elif isinstance(value, list):
        inner = value
    elif isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        top.refuse("is not readable JSON (half a surrogate pair)")
    for item in inner:
        _check(item, top, depth + 1)


def _unique(pairs: list[tuple[str, Any]], top: Node) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        top.refuse(f"has an object with the key {twice!r} twice")
    return result
