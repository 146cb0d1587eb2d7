"""Finds the C++ compiler."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache

from treadle.errors import ToolchainError
from treadle.settings import settings


@cache
def compiler() -> tuple[str, str]:
    """(path, version) of the C++ compiler, or a ToolchainError that says how to get one."""
    wanted = settings.cxx
    path = shutil.which(wanted) or (shutil.which("g++") if wanted == "c++" else None)
    if path is None:
        raise ToolchainError(
            "no C++ compiler",
            given=wanted,
            expected="a C++17 compiler on PATH, or its path in TREADLE_CXX",
            hint="on Debian: apt-get install g++",
        )
    try:
        out = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as broken:
        raise ToolchainError(
            "the C++ compiler does not run", given=path, expected="c++ --version to work", hint=str(broken)
        ) from None
    return path, out.splitlines()[0]
