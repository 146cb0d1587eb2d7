"""CUDA sessions without a GPU: tests/fake_cuda, run in a process of its own in which the stand-in is the CUDA runtime."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from treadle.errors import ToolchainError

RUN = Path(__file__).parents[1] / "fake_cuda" / "run.py"


def test_sessions_on_the_stand_in_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nvcc = pytest.importorskip("treadle.codegen.nvcc", reason="building a CUDA bundle needs the compiler extra")
    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(f"building a CUDA bundle needs nvcc: {missing}")
    done = subprocess.run([sys.executable, str(RUN), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    with capsys.disabled():
        print("\n" + "\n".join(re.findall(r"^CUDA host cost.*|^\d+ passed.*", done.stdout, re.MULTILINE)))
