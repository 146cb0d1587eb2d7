"""What runs our cases on a GPU, through the stand-in for CUDA: so it is known to be right where there is no GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from treadle.codegen import nvcc
from treadle.errors import ToolchainError

ROOT = Path(__file__).parents[2]


def test_the_stand_in_agrees() -> None:
    """Arguments, clusters, dynamic shared memory, swizzled and out-of-bounds maps, approximations."""
    from treadle.codegen.ptxsim import standin

    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(f"the stand-in is compiled with CUDA's headers: {missing}")
    names = ["whole_sum", "cluster_sum", "blelloch", "tma_3d", "tma_swizzles", "approximated", "gemm_ws"]
    command = [sys.executable, "-m", "tests.ptxsim.on_gpu", *names]
    done = subprocess.run(command, cwd=ROOT, env=standin.environment(), capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == [f"{n}: agrees" for n in names], done.stdout + done.stderr
    assert done.returncode == 0
