"""Shared by the tests of the stand-in for CUDA."""

import pytest

from treadle.errors import ToolchainError


@pytest.fixture(scope="module")
def standin(cache_dir):
    from treadle.codegen import nvcc
    from treadle.codegen.ptxsim import standin

    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(f"the stand-in is compiled with CUDA's headers: {missing}")
    return standin
