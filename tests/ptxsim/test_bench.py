"""What `treadle bench ptx` times is right, at sizes that take no time."""

from __future__ import annotations

import pytest

from treadle.bench.ptx import speed
from treadle.codegen import nvcc, ptxsim
from treadle.errors import ToolchainError


def test_what_is_timed_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """But scan.gspn, which would make the stand-in this process's CUDA, and which other tests run in processes of their own."""
    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(f"the kernels are compiled when they are timed: {missing}")
    for name, value in {"ROUNDS": 1, "ELEMENTS": 1 << 12, "SHUFFLED": 1 << 9, "REPEATS": 2, "SIDE": 64}.items():
        monkeypatch.setattr(speed, name, value)
    module = ptxsim.load(speed._ptx(), "kernels")
    rows = [speed._row(module, timed, 1) for timed in speed._kernels()]
    assert {r["kernel"] for r in rows} == {"elementwise", "shuffles", "wgmma GEMM"}
    assert all(r["error"] < 1e-5 and r["seconds"] > 0 and r["instructions"] > 0 for r in rows)
