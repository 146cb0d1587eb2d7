"""Finds the CUDA compiler: pip wheels in this environment, else a toolkit named by CUDA_HOME or CUDA_PATH, else PATH.

What is on PATH may be a script in front of the compiler, and headers and libraries lie beside the compiler, not beside the
script. So the compiler itself is asked where it lives: `nvcc --dryrun` prints the folders it will use.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from treadle.errors import ToolchainError
from treadle.settings import settings

#: Bundles are linked against this runtime, which the session loads; a toolkit of another major version has another.
MAJOR, CUDART = "13", "libcudart.so.13"
_INSTALL = "pip install 'treadle[nvcc]'"


@dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler that is complete: it runs, and its headers and runtime library were found."""

    path: str
    version: str
    include: Path
    cudart: Path

    @property
    def label(self) -> str:
        """The version as manifests and cache keys hold it; the same release from a wheel and a toolkit is the same compiler."""
        return f"nvcc {self.version}"


def find() -> Nvcc:
    """The compiler to use, or a ToolchainError that says how to get one."""
    if settings.nvcc:
        path = shutil.which(settings.nvcc)
        if path is None:
            raise ToolchainError(
                "no CUDA compiler at TREADLE_NVCC", given=settings.nvcc, expected="the path of an nvcc that can be run",
                hint=f"Correct TREADLE_NVCC, or unset it and {_INSTALL}",
            )  # fmt: skip
        return _probe(path)
    partial: ToolchainError | None = None
    for path in _candidates():
        try:
            return _probe(path)
        except ToolchainError as wrong:  # half a set of wheels must not hide a whole toolkit
            partial = partial or wrong
    raise partial or ToolchainError(
        "no CUDA compiler", given="no nvcc in this environment, CUDA_HOME, CUDA_PATH or PATH", expected=f"CUDA {MAJOR}",
        hint=_INSTALL,
    )  # fmt: skip


def _candidates() -> Iterator[str]:
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(folder) / f"cu{MAJOR}" for folder in (spec.submodule_search_locations or ())] if spec else []
    roots += [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for root in roots:
        if found := shutil.which("nvcc", path=str(root / "bin")):
            yield found
    if found := shutil.which("nvcc"):
        yield found


@cache
def _probe(path: str) -> Nvcc:
    """What lies around a compiler; a ToolchainError names the first part that does not."""

    def refuse(what: str, given: str) -> ToolchainError:
        whole = f"CUDA {MAJOR}, complete"
        return ToolchainError(f"the CUDA compiler {path} {what}", given=given, expected=whole, hint=_INSTALL)

    version = re.search(r"\bV(\d+\.\d+\.\d+)", _output(path, "--version"))
    if version is None:
        raise refuse("does not run", _output(path, "--version").strip()[-300:] or "no version printed")
    if version[1].split(".")[0] != MAJOR:
        raise refuse("is of another version", version[1])
    top = re.search(r"^#\$ TOP=(.+)$", _output(path, "--dryrun", "-E", "-x", "cu", os.devnull), re.MULTILINE)
    root = Path(top[1]).resolve() if top else Path(path).resolve().parent.parent
    parts = [root, *root.glob("targets/x86_64-linux")]

    def part(*names: str) -> Path:
        for name in names:
            for folder in parts:
                if (folder / name).exists():
                    return folder / name
        raise refuse("is incomplete", f"no {names[0]} in {root}")

    part("nvvm/bin/cicc"), part("include/crt/host_config.h"), part("include/cccl", "include/nv")
    header, cudart = part("include/cuda_runtime.h"), part(f"lib/{CUDART}", f"lib64/{CUDART}")
    return Nvcc(path, version[1], header.parent, cudart)


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    except OSError as broken:
        return str(broken)
    return done.stdout


def environment() -> dict[str, str]:
    """The environment for the compiler, without the variables that would slip flags in behind the cache key's back."""
    return {k: v for k, v in os.environ.items() if k not in ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")}
