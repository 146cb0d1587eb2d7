"""The thread pool: every task once, from any thread, through forks, without data races."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from treadle.settings import settings

STRESS = Path(__file__).with_name("pool_stress.cc")


def _build(folder: Path, *flags: str) -> Path:
    program = folder / "stress"
    command = [
        settings.cxx,
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        *flags,
        str(STRESS),
        "-pthread",
        "-o",
        program,
    ]
    subprocess.run(command, check=True)
    return program


def _run(program: Path, *args: str, **env: str) -> str:
    done = subprocess.run([program, *args], env=os.environ | env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip()


def test_stress_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = _build(tmp_path, "-O2")
    for threads in ("1", "2", "5"):
        assert _run(program, "1000", TREADLE_NUM_THREADS=threads) == f"ok width={threads}"
    # Unset, empty and senseless all mean: the CPUs this process may use.
    cpus = len(os.sched_getaffinity(0))
    for text in ("", "0", "two", "99999"):
        assert _run(program, "10", TREADLE_NUM_THREADS=text) == f"ok width={cpus}"
    one_cpu = ["taskset", "-c", str(min(os.sched_getaffinity(0))), program, "10"]
    done = subprocess.run(one_cpu, env=os.environ | {"TREADLE_NUM_THREADS": ""}, capture_output=True, text=True)
    assert done.stdout.strip() == "ok width=1", done.stderr
    figures = _run(program, "10", "measure", TREADLE_NUM_THREADS="2")
    with capsys.disabled():
        print("\npool, two tasks, median:", figures)


def test_no_data_race(tmp_path: Path) -> None:
    try:
        program = _build(tmp_path, "-O1", "-g", "-fsanitize=thread")
    except subprocess.CalledProcessError:
        pytest.skip("this compiler has no ThreadSanitizer")
    for threads in ("2", "4"):
        out = _run(program, "500", TREADLE_NUM_THREADS=threads, TSAN_OPTIONS="halt_on_error=1")
        assert out == f"ok width={threads}"


def test_the_hooks_are_hidden(tiny_built: Path) -> None:
    """Were they exported, a libtvm_runtime in the same process would overwrite them."""
    library = ctypes.CDLL(str(tiny_built / "lib" / "cpu.so"))
    assert hasattr(library, "__tvm_ffi_treadle_run_main")
    for hook in ("ParallelLaunch", "AllocWorkspace", "FreeWorkspace"):
        assert not hasattr(library, f"__TVMBackend{hook}")
