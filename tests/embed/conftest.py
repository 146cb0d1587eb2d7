"""C++ programs built with CMake against an installed treadle, in clean folders.

The headers and CMake files come from a wheel, installed with `pip install --target`, so that a file that setup.py forgets is
missed here; the compiler that treadle_add_bundle runs is that of this environment.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import treadle

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BIN = Path(sys.executable).parent

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """site-packages with treadle alone, from a wheel built in a copy: pip leaves traces in the tree that it builds."""
    home = tmp_path_factory.mktemp("installed")
    unwanted = shutil.ignore_patterns(".*", "build", "gpu-kit", "demo-out", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, home / "source", ignore=unwanted)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--target", home / "site", home / "source"], check=True)
    return home / "site"


@pytest.fixture(scope="session")
def build(installed, tmp_path_factory) -> Callable[[Path], Path]:
    """build(source): configures and builds the CMake project there; returns the folder of what it built."""
    cmake = BIN / "cmake"

    def built(source: Path) -> Path:
        folder = tmp_path_factory.mktemp("built")
        flags = ["-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1 -Wall -Wextra -Wshadow -Wconversion -Werror"]
        where = [f"-Dtreadle_DIR={installed}/treadle/runtime/cmake", f"-DTREADLE_PROGRAM={BIN}/treadle"]
        for command in ([cmake, "-S", source, "-B", folder, *flags, *where], [cmake, "--build", folder, "--parallel", "2"]):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        return folder

    return built


@pytest.fixture(scope="session")
def examples(build) -> Path:
    return build(ROOT / "examples" / "cpp")


@pytest.fixture(scope="session")
def programs(build) -> Path:
    return build(HERE)


@pytest.fixture(scope="session")
def run() -> Run:
    """run(program, args...): without Python's paths and whatever else might lead a program to libtvm_ffi."""

    def run(*command: object, **more) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "PYTHONPATH")}
        return subprocess.run([str(part) for part in command], env=clean, capture_output=True, text=True, timeout=300, **more)

    return run


@pytest.fixture(scope="session")
def damage() -> ModuleType:
    """The generator of damages that the runtime in Python is tested with."""
    spec = importlib.util.spec_from_file_location("damage", ROOT / "tests" / "runtime" / "damage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def small(damage, tmp_path_factory) -> Path:
    """A folder with good.treadle, the input x that it is run on, and what y is then, as raw bytes."""
    folder = tmp_path_factory.mktemp("small")
    good = damage.build(folder)
    given = damage.inputs()
    given["x"].tofile(folder / "x.raw")
    np.asarray(treadle.load(good).run(**given)["y"]).tofile(folder / "y.raw")
    return folder
