"""The same PTX on a GPU. Travels in the kit, and runs there by `run.sh --only tests`."""

from __future__ import annotations

import pytest

from treadle.errors import DeviceError
from treadle.runtime import cuda

from .cases import CASES, Case
from .on_gpu import differences


@pytest.fixture(scope="module")
def hopper() -> None:
    try:
        found = cuda.find_device(0)
    except DeviceError as none:
        pytest.skip(f"no CUDA device: {none}")
    if found.arch != "sm_90":
        pytest.skip(f"the kernels are for sm_90a, and {found} is none")


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_gpu_agrees(hopper: None, case: Case) -> None:
    assert not differences(case)
