"""Steps whose operands lie ready as they stand: the common case, without any detour."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from treadle.codegen.ptxsim.gang import Gang


@cache
def direct(pattern: str) -> Callable[..., Callable[[Gang], None]]:
    """A factory of steps whose operands are whole registers (r) and constants (k)."""
    names = [f"a{i}" for i in range(len(pattern))]
    used = ", ".join(f"{n}[s]" if kind == "r" else n for n, kind in zip(names, pattern, strict=True))
    scope: dict[str, Any] = {}
    exec(f"def factory(d, fn, {', '.join(names)}):\n def step(g):\n  s = g.sel\n  d[s] = fn({used})\n return step\n", scope)
    return scope["factory"]
