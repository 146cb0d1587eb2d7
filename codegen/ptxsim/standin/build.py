"""Compiles the stand-in: libcuda.so.1, which holds everything, and libcudart.so.13, which is empty and needs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.resources.abc import Traversable
from pathlib import Path

from treadle.codegen import nvcc
from treadle.codegen.cache import Cache, digest
from treadle.codegen.cxx import compiler
from treadle.errors import ToolchainError

RUNTIME, DRIVER = nvcc.CUDART, "libcuda.so.1"
#: A library asks for `cudaMalloc@libcudart.so.13`, but for `cuInit` without a version, which any fits.
_VERSIONS = f"{RUNTIME} {{ cuda*; __cuda*; }}; driver {{ global: cu[A-Z]*; fake_*; treadle_stand_in; local: *; }};\n"
_FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden", "-pthread")
_LINK = ("-shared", "-s", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-rpath,$ORIGIN")


def build(sources: Traversable, keep: ExitStack) -> Path:
    """The cached folder of both libraries. CUDA's headers say what they offer; they come with the CUDA compiler."""
    texts = {f.name: f.read_bytes() for f in sorted(sources.iterdir(), key=lambda f: f.name) if f.name.endswith((".cc", ".h"))}
    key = digest(
        {
            "stand-in": {name: text.decode() for name, text in texts.items()},
            "tools": [compiler()[1], nvcc.find().label, _FLAGS, _LINK, _VERSIONS],
            "python": sys.executable,
        }
    )
    return Cache.default().get_or_build(key, lambda into: _compile(texts, into), keep)[0]


def _compile(texts: dict[str, bytes], into: Path) -> None:
    for name, text in texts.items():
        (into / name).write_bytes(text)
    (into / "versions").write_text(_VERSIONS)
    units = sorted(name for name in texts if name.endswith(".cc"))
    objects = [f"{name}.o" for name in units]
    include = [f"-isystem{nvcc.find().include}", f'-DTREADLE_PYTHON="{sys.executable}"']
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: _run([*_FLAGS, *include, "-c", name, "-o", f"{name}.o"], into), units))
    link = [*_LINK, "-Wl,--version-script=versions"]
    _run([*link, *objects, f"-Wl,-soname,{DRIVER}", "-pthread", "-ldl", "-o", DRIVER], into)
    _run([*link, f"-Wl,-soname,{RUNTIME}", "-Wl,--no-as-needed", f"./{DRIVER}", "-o", RUNTIME], into)
    for name in (*texts, *objects, "versions"):
        (into / name).unlink()


def _run(words: Sequence[str], into: Path) -> None:
    done = subprocess.run([compiler()[0], *words], cwd=into, capture_output=True, text=True)
    if done.returncode:
        raise ToolchainError(
            "the stand-in for CUDA does not compile", given=done.stderr.strip()[-2000:], expected="no error", hint=compiler()[1]
        )
