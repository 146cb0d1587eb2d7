"""The benchmarks' own C++, compiled once and kept in the cache of kernels."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path

from treadle.codegen.cache import Cache, digest
from treadle.codegen.cpu import compiler
from treadle.errors import ToolchainError

_FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")


def compiled(source: str, flags: Sequence[str], keep: ExitStack, beside: dict[str, bytes] | None = None) -> Path:
    """The result of compiling bench/`source` with `flags`; `beside` are further files it includes."""
    text = (resources.files("treadle.bench") / source).read_bytes()
    files = {source: text, **(beside or {})}
    path, version = compiler()
    key = digest({"bench": {n: t.decode() for n, t in files.items()}, "flags": [*_FLAGS, *flags], "c++": version})

    def build(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        done = subprocess.run([path, *_FLAGS, source, *flags, "-o", "built"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise ToolchainError(
                f"compiling {source} failed", given=done.stderr.strip()[-1000:], expected="no error", hint=version
            )

    folder, _ = Cache.default().get_or_build(key, build, keep)
    return folder / "built"
