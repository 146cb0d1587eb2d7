"""WHAT is computed: Programs, the scan combinator, Graphs, and the oracles they are held against.

Imported on first use: the oracles are plain torch and are also used where TVM is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treadle.ir.program import Attr, Builder, Program, build, define
    from treadle.ir.registry import definitions
    from treadle.ir.scan import Read, Scan

__all__ = ["Attr", "Builder", "Program", "Read", "Scan", "build", "define", "definitions"]

_HOME = {"definitions": "registry", "Read": "scan", "Scan": "scan"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"treadle.ir.{_HOME.get(name, 'program')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
