"""Finds definitions by walking `ir/ops/<family>/<op>.py`: a Program named `scan.gspn` lives where its name says."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from treadle.errors import UnknownNameError
from treadle.ir.program import Definition


@cache
def definitions() -> dict[str, Definition]:
    """Every Program definition, by name, in alphabetical order."""
    import treadle.ir.ops as ops

    found: dict[str, Definition] = {}
    for info in pkgutil.walk_packages(ops.__path__, ops.__name__ + "."):
        if info.ispkg:
            continue
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, Definition):
                found[value.name] = value
    return dict(sorted(found.items()))


def definition(name: str) -> Definition:
    known = definitions()
    if name not in known:
        raise UnknownNameError.unknown("program", name, known)
    return known[name]
