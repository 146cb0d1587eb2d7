"""treadle: kernels as programs and schedules, compiled through Apache TVM, composed into model graphs.

    k = treadle.compile("scan.gspn", target="cpu", attrs={"direction": "l2r"})     # a Kernel
    b = treadle.compile(treadle.models.build("cgspn", "tiny"), out="cgspn.treadle")  # a Bundle
    s = treadle.load("cgspn.treadle"); y = s.run(image=x)                           # a Session

Everything is imported on first use: loading and running a bundle needs neither TVM nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treadle import errors, ir, models
    from treadle.api import compile
    from treadle.runtime import Bundle, Session
    from treadle.sessions import load

__version__ = "0.1.0"
__all__ = ["Bundle", "Session", "compile", "errors", "ir", "load", "models"]

_HOME = {"compile": "treadle.api", "load": "treadle.sessions", "Session": "treadle.runtime", "Bundle": "treadle.runtime"}
_MODULES = ("errors", "ir", "models", "runtime", "schedules", "codegen", "torch")
#: What only the compiler extra installs, and therefore what its absence looks like.
_COMPILER = ("tvm", "networkx", "filelock")


def __getattr__(name: str) -> Any:
    try:
        if name in _HOME:
            return getattr(importlib.import_module(_HOME[name]), name)
        if name in _MODULES:
            return importlib.import_module(f"treadle.{name}")
    except ModuleNotFoundError as missing:
        if missing.name in _COMPILER:
            from treadle.errors import ToolchainError

            raise ToolchainError(
                f"treadle.{name} needs the compiler",
                given=f"no module {missing.name}",
                expected="the compiler extra",
                hint="pip install 'treadle[compiler]'",
            ) from None
        raise
    raise AttributeError(f"module 'treadle' has no attribute {name!r}")
