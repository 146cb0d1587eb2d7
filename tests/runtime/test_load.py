"""Sessions under load: many threads on many sessions, and many loads one after another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("sessions.py")
LONG = pytest.mark.long  # a hundred thousand calls, five thousand loads


def measure(*args: object) -> dict[str, Any]:
    done = subprocess.run([sys.executable, SCRIPT, *map(str, args)], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("threads", "sessions", "runs"), [(16, 4, 20), pytest.param(64, 8, 200, marks=LONG)])
def test_sessions_in_many_threads_equal_serial_runs(tiny_built: Path, threads: int, sessions: int, runs: int) -> None:
    found = measure(tiny_built, "threads", threads, sessions, runs)
    assert found == {"calls": threads * sessions * runs, "wrong": 0, "threads that failed": 0}


@pytest.mark.parametrize(("loads", "bound"), [(200, 1 << 20), pytest.param(5000, 4 << 20, marks=LONG)])
def test_loading_again_and_again_takes_no_memory(
    tiny_built: Path, loads: int, bound: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measure(tiny_built, "loads", loads)
    with capsys.disabled():
        print(f"\n{found}")
    # The heap once grew by 2 MiB somewhere in the first 3,000 loads, and by 12 KiB in the 6,000 after them.
    assert found["growth"] < bound
