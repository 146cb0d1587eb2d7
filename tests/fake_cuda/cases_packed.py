"""Route B on the stand-in: TVM's own loader takes the packed library, and launches where it is told. Run by run.py."""

from __future__ import annotations

import os
from pathlib import Path

import fake
import pytest
import tvm_ffi
from fake import STREAM, DeviceArray

from gpu import loaders

PACKED, SYMBOL = os.environ["FAKE_CUDA_PACKED"].split(":")
ROWS, CHANNELS = 3, 32


@pytest.fixture(scope="module")
def norm():
    tvm = Path(os.environ["FAKE_CUDA_TVM"])
    loaders.load(tvm)
    return tvm_ffi.load_module(PACKED).get_function(SYMBOL)


def test_machine_code_is_loaded_once_and_launched_on_the_given_stream(norm):
    arrays = [DeviceArray(shape) for shape in ((ROWS, CHANNELS), (CHANNELS,), (CHANNELS,), (ROWS, CHANNELS))]
    given = [tvm_ffi.from_dlpack(a.__dlpack__()) for a in arrays]
    fake.log()
    for stream in (STREAM, 0x8000):
        with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda:0"), stream):
            norm(*given)
    loaded, first, second = fake.log()
    assert loaded == "module fatbin"
    assert f"packed {SYMBOL}_kernel " in first and "stream=0x7000" in first and "stream=0x8000" in second
    for array in arrays:
        array.free()
