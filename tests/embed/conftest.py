"""C++ programs built with CMake against an installed treadle, in clean folders.

The wheel is installed into a virtual environment of its own, and headers, CMake files, the `treadle` command and the compiler
that it runs are the wheel's, so that a file that setup.py forgets is missed here. What treadle depends on is this environment's.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock

import treadle

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BIN = Path(sys.executable).parent

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """once(name, make): a folder that make(folder) has filled, by whichever worker of the run came first."""
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "embed"
    home.mkdir(exist_ok=True)

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder = home / name
        with FileLock(home / f"{name}.lock"):
            if not (home / f"{name}.done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                (home / f"{name}.done").touch()
        return folder

    return once


@pytest.fixture(scope="session")
def installed(once) -> Path:
    """The `treadle` command of the environment, whose wheel is built in a copy: pip leaves traces in the tree that it builds."""

    def install(folder: Path) -> None:
        unwanted = shutil.ignore_patterns(".*", "build", "gpu-kit", "demo-out", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT, folder / "source", ignore=unwanted)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        python = folder / "venv" / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", folder / "source"], check=True)
        # Behind the environment's own packages; an editable treadle here needs its own .pth to be found, which is not read there.
        (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    return once("installed", install) / "venv" / "bin" / "treadle"


@pytest.fixture(scope="session")
def build(installed, once) -> Callable[[str, Path], Path]:
    """build(name, source): configures and builds the CMake project there; returns the folder of what it built."""
    cmake = BIN / "cmake"
    flags = ["-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1 -Wall -Wextra -Wshadow -Wconversion -Werror"]
    printed = subprocess.run([installed, "--cmakedir"], capture_output=True, text=True, check=True).stdout.strip()
    where = [f"-Dtreadle_DIR={printed}"]

    def build(name: str, source: Path) -> Path:
        def make(folder: Path) -> None:
            for command in ([cmake, "-S", source, "-B", folder, *flags, *where], [cmake, "--build", folder, "--parallel", "2"]):
                done = subprocess.run(command, capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr

        return once(name, make)

    return build


@pytest.fixture(scope="session")
def examples(build) -> Path:
    return build("examples", ROOT / "examples" / "cpp")


@pytest.fixture(scope="session")
def programs(build) -> Path:
    return build("programs", HERE)


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
def small(damage, once) -> Path:
    """A folder with good.treadle, the input x that it is run on, and what y is then, as raw bytes."""

    def make(folder: Path) -> None:
        good = damage.build(folder)
        given = damage.inputs()
        given["x"].tofile(folder / "x.raw")
        treadle.load(good).run(**given)["y"].tofile(folder / "y.raw")

    return once("small", make)
