"""treadle.runtime: loading and running compiled bundles.

Needs numpy, ml_dtypes, safetensors and apache-tvm-ffi; knows neither TVM nor the
compiler.  Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treadle.runtime.bundle import Bundle
    from treadle.runtime.session import Session, load

__all__ = ["Bundle", "Session", "load"]


def __getattr__(name: str) -> Any:
    if name == "Bundle":
        from treadle.runtime.bundle import Bundle

        return Bundle
    if name in ("Session", "load"):
        from treadle.runtime import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
