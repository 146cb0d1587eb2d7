"""The second route: TVM's own loader finds machine code where it would have found source."""

import subprocess
import sys

import pytest

from treadle.codegen import cuda_packed, fatbin, nvcc
from treadle.codegen.lower import lower
from treadle.errors import ToolchainError
from treadle.ir import build

try:
    nvcc.find()
except ToolchainError as missing:
    pytest.skip(f"no CUDA compiler anywhere: {missing}", allow_module_level=True)

# The loader of CUDA modules lives in a library that needs the driver; this one in its place says what it was given.
LOAD = """
import struct, sys, tvm_ffi

@tvm_ffi.register_global_func("ffi.Module.load_from_bytes.cuda")
def load(data):
    data, at = bytes(data), 0
    def text():
        nonlocal at
        size, = struct.unpack_from("<Q", data, at)
        at += 8 + size
        return data[at - size : at]
    kind = text().decode()
    count, = struct.unpack_from("<Q", data, at)
    raise ValueError(f"seen: {kind} with {count} functions")

tvm_ffi.load_module(sys.argv[1])
"""


def test_the_loader_is_given_a_fat_binary(kernels, tmp_path):
    lowered = [kernels.elementwise(), kernels.transpose(), lower(build("norm.layer_norm", "float16"), kernels.BOTH)]
    cuda_packed.link_library(lowered, kernels.BOTH, tmp_path / "packed.so")
    assert {i.arch for i in fatbin.images((tmp_path / "packed.so").read_bytes())} == {"sm_80", "sm_90a"}
    done = subprocess.run([sys.executable, "-c", LOAD, tmp_path / "packed.so"], capture_output=True, text=True)
    assert "seen: fatbin with 3 functions" in done.stderr
    symbols = subprocess.run(["nm", "-D", tmp_path / "packed.so"], capture_output=True, text=True).stdout
    assert all(f"T __tvm_ffi_{k.symbol}\n" in symbols for k in lowered)


def test_an_unknown_layout_is_refused():
    with pytest.raises(ToolchainError, match="unknown way"):
        cuda_packed.replaced(b"\0" * 64, b"source", b"code")
