"""A compiled Program, called like a function."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from treadle.errors import ArgumentError
from treadle.runtime.session import Session


class Kernel:
    """A Program compiled for one target: call it with its arguments by position or by name.

    Returns one array, or a tuple in declared order; arrays are of the caller's framework. `out=` takes a dict of
    preallocated results by name. The arguments named in `updates` are written where they lie, and not returned.
    """

    def __init__(self, session: Session, keep: ExitStack) -> None:
        self._session = session
        self._keep = keep  # the library's folder, where it could not be cached
        (entry,) = session.manifest.entries
        self.args = tuple(t.name for t in entry.inputs)
        self.results = tuple(t.name for t in entry.outputs)
        self.updates = entry.updates

    def __call__(self, *args: Any, out: dict[str, Any] | None = None, **named: Any) -> Any:
        if len(args) > len(self.args):
            raise ArgumentError(f"{self!r}: number of arguments", given=len(args), expected=list(self.args))
        given = dict(zip(self.args, args, strict=False))
        if twice := given.keys() & named.keys():
            raise ArgumentError(f"{self!r}: argument {min(twice)} is given by position and by name")
        results = self._session.run(out=out, **given, **named)
        values = tuple(results[n] for n in self.results)
        return values[0] if len(values) == 1 else values

    def __repr__(self) -> str:
        return f"Kernel {self._session.manifest.name}({', '.join(self.args)}) -> {', '.join(self.results)}"
