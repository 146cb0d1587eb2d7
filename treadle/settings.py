"""Every environment variable treadle reads, in one table.

Variables are read when asked for, never at import, so a test or a notebook
can change them at any time.  A value that makes no sense raises ArgumentError
at the place that needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from treadle.errors import ArgumentError

T = TypeVar("T")


class Variable(Generic[T]):
    """One environment variable; reading the attribute reads the environment."""

    def __init__(
        self,
        name: str,
        default: Callable[[], T],
        parse: Callable[[str], T],
        accepts: str,
        meaning: str,
    ) -> None:
        self.name = name
        self.default = default
        self.parse = parse
        self.accepts = accepts
        self.meaning = meaning

    def __get__(self, owner: object, cls: type) -> T:
        text = os.environ.get(self.name, "")
        if not text:  # set but empty counts as unset, as in most shells' idiom `VAR= command`
            return self.default()
        try:
            return self.parse(text)
        except ValueError:
            raise ArgumentError(
                f"environment variable {self.name} ({self.meaning}) has a bad value",
                given=repr(text),
                expected=self.accepts,
                hint=f"Correct it or `unset {self.name}`.",
            ) from None


def _flag(text: str) -> bool:
    try:
        return {"0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1024):
        raise ValueError(text)
    return int(text)


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**31):
        raise ValueError(text)
    return int(text)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "treadle"


class Settings:
    """The table.  Use the instance `settings`; iterate `Settings.table()` to print it."""

    debug: Variable[bool] = Variable(
        "TREADLE_DEBUG", lambda: False, _flag, "0 or 1",
        "show tracebacks on the command line",
    )  # fmt: skip
    num_threads: Variable[int | None] = Variable(
        "TREADLE_NUM_THREADS", lambda: None, _count, "an integer from 1 to 1024",
        "CPU threads of a kernel; unset: the CPUs this process may use",
    )  # fmt: skip
    cache_dir: Variable[Path] = Variable(
        "TREADLE_CACHE_DIR", _user_cache, Path, "a folder",
        "where compiled kernels are cached",
    )  # fmt: skip
    cxx: Variable[str] = Variable(
        "TREADLE_CXX", lambda: "c++", str, "a command",
        "the C++ compiler that links CPU libraries",
    )  # fmt: skip
    nvcc: Variable[str] = Variable(
        "TREADLE_NVCC", lambda: "", str, "a command",
        "the CUDA compiler; unset: pip wheels, CUDA_HOME, CUDA_PATH, PATH, in this order",
    )  # fmt: skip
    ptx_python: Variable[str] = Variable(
        "TREADLE_PTX_PYTHON", lambda: "", str, "a command",
        "the Python that runs the PTX machine; unset: the one that compiled the stand-in for CUDA",
    )  # fmt: skip
    ptx_seed: Variable[int] = Variable(
        "TREADLE_PTX_SEED", lambda: 0, _natural, "an integer from 0 to 2^31 - 1",
        "the order in which the PTX machine runs warps and CTAs; 0: the plain one",
    )  # fmt: skip
    ptx_jobs: Variable[int] = Variable(
        "TREADLE_PTX_JOBS", lambda: 1, _count, "an integer from 1 to 1024",
        "processes that the PTX machine shares the CTAs of a launch out to",
    )  # fmt: skip
    ptx_device: Variable[str] = Variable(
        "TREADLE_PTX_DEVICE", lambda: "", str, "words NAME=NUMBER: capability, devices, memory (GiB), driver, init, run, log",
        "what the stand-in for a CUDA device claims of itself",
    )  # fmt: skip

    @classmethod
    def table(cls) -> list[Variable[object]]:
        """Every variable, in the order written above."""
        return [entry for entry in vars(cls).values() if isinstance(entry, Variable)]


settings = Settings()
