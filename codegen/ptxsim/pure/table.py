"""Which function an opcode with its modifiers is: the table that the other files of this folder fill.

A function works elementwise on numpy arrays, one element a thread; any argument may be 0-d (an immediate), and the result
may then be 0-d, or a numpy scalar, too. It may return an argument itself (mov): the caller must not write into results.
The caller has entered `np.errstate(all="ignore")` around the whole launch, which is what lets a function be a bare ufunc.

Where two types would do, an entry names the one that costs least: the binder reinterprets registers of the same width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from treadle.codegen.ptxsim import types

Array = Any  # np.ndarray, or a numpy scalar where every argument was 0-d: the two share what is used here


@dataclass(frozen=True)
class Pure:
    """An opcode whose results depend on its operands alone."""

    out: tuple[str, ...]  # PTX types of the results
    args: tuple[str, ...]  # PTX types of the source operands, in order
    fn: Callable[..., Any]  # arrays -> an array, or a tuple of them where there are several results


def dtype(ptx_type: str) -> np.dtype[Any]:
    """The dtype in which a value of a PTX type is handed over."""
    found = types.dtype(ptx_type)
    assert found is not None, ptx_type
    return found


class NotThis(Exception):
    """The modifiers are not those of the form that a builder knows."""


class Mods:
    """The modifiers of an instruction. Their order means something among types only, and so it is with ptxas."""

    def __init__(self, opcode: str, mods: tuple[str, ...], pair: bool) -> None:
        self.opcode = opcode
        self.pair = pair  # two results are asked for: setp p|q
        self._left = list(mods)

    def flag(self, name: str) -> bool:
        """Whether `name` is there."""
        return self.one(name) is not None

    def one(self, *names: str) -> str | None:
        """Which of these is there."""
        for name in names:
            if name in self._left:
                self._left.remove(name)
                return name
        return None

    def need(self, *names: str) -> str:
        """Which of these is there; one must be."""
        name = self.one(*names)
        if name is None:
            raise NotThis
        return name

    def type(self, *allowed: str) -> str:
        """The next of what is left, once the flags are taken."""
        if not self._left or self._left[0] not in allowed:
            raise NotThis
        return self._left.pop(0)

    def end(self, *, pair: bool = False) -> None:
        """Nothing is left, and the form gives two results if they are asked for."""
        if self._left or (self.pair and not pair):
            raise NotThis


Builder = Callable[[Mods], Pure]
_BUILDERS: dict[str, list[Builder]] = {}


def opcode(*names: str) -> Callable[[Builder], Builder]:
    """Enters a builder, which raises NotThis for the forms that are not its own, under these opcodes."""

    def enter(build: Builder) -> Builder:
        for name in names:
            _BUILDERS.setdefault(name, []).append(build)
        return build

    return enter


@lru_cache(maxsize=4096)
def find(name: str, mods: tuple[str, ...], pair: bool = False) -> Pure | None:
    """The function of `name.mods`, None where that is no pure opcode of sm_80 to sm_90a.

    `pair`: the instruction names two results, `p|q`; a setp gives the second only then.
    """
    for build in _BUILDERS.get(name, ()):
        try:
            return build(Mods(name, mods, pair))
        except NotThis:
            continue
    return None


def names() -> tuple[str, ...]:
    """Every opcode that has a form here."""
    return tuple(sorted(_BUILDERS))
