"""The caller's arrays reach the kernels with the right type code, shape and address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm_ffi

from treadle.dtypes import DTYPES
from treadle.runtime.tensors import DLPACK, NUMPY, TORCH, Framework, empty, framework_of


@pytest.mark.parametrize("name", DTYPES)
def test_numpy_shares_memory_and_says_its_dtype(name: str) -> None:
    dtype = DTYPES[name]
    array = np.arange(12).reshape(3, 4).astype(dtype.numpy)
    tensor = NUMPY.tensor(array)
    assert (str(tensor.dtype), tensor.shape, tensor.data_ptr()) == (name, (3, 4), array.ctypes.data)
    assert (tensor.dtype.type_code, tensor.dtype.bits) == (dtype.code, dtype.bits)
    # Back through DLPack as raw bits: the same memory, so a write is seen.
    back = np.from_dlpack(tensor) if array.dtype.isbuiltin == 1 else None
    if back is not None:
        assert np.shares_memory(back, array)


def test_bfloat16_written_by_a_kernel_comes_back() -> None:
    torch = pytest.importorskip("torch")
    array = NUMPY.empty((2, 3), DTYPES["bfloat16"])
    torch.from_dlpack(NUMPY.tensor(array)).copy_(torch.tensor([[1.5, 2, 3], [-4, 5, 6]]))
    assert array.astype(np.float32).tolist() == [[1.5, 2, 3], [-4, 5, 6]]


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e5m2"])
def test_read_only_arrays_are_accepted(name: str) -> None:
    array = np.ones((2, 2), DTYPES[name].numpy)
    array.flags.writeable = False
    assert str(NUMPY.tensor(array).dtype) == name
    assert not NUMPY.writable(array)


def test_element_aligned_views_keep_their_address() -> None:
    array = np.arange(9, dtype=np.float32)[1:]
    tensor = NUMPY.tensor(array)
    assert tensor.data_ptr() == array.ctypes.data and tensor.shape == (8,)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 5)])
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_arrays_without_elements_have_compact_strides(shape: tuple[int, ...], name: str) -> None:
    torch = pytest.importorskip("torch")
    compact = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    made: list[tuple[Framework, Any]] = [
        (NUMPY, np.empty(shape, DTYPES[name].numpy)),
        (TORCH, torch.empty(shape, dtype=getattr(torch, name), requires_grad=True)),
        (DLPACK, tvm_ffi.from_dlpack(torch.empty(shape, dtype=getattr(torch, name)))),
    ]
    for framework, array in made:
        tensor = framework.tensor(array)
        assert (tensor.shape, tensor.strides, str(tensor.dtype)) == (shape, compact, name), framework


def test_the_array_lives_as_long_as_the_tensor() -> None:
    import gc
    import weakref

    class Tracked(np.ndarray[Any, Any]):
        pass

    array = np.ones(1000, DTYPES["bfloat16"].numpy).view(Tracked)
    alive = weakref.ref(array)
    tensor = NUMPY.tensor(array)
    del array
    gc.collect()
    assert alive() is not None
    del tensor
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("name", DTYPES)
def test_torch_names_and_outputs(name: str) -> None:
    torch = pytest.importorskip("torch")
    array = TORCH.empty((2, 3), DTYPES[name])
    assert isinstance(array, torch.Tensor) and TORCH.facts(array) == (name, (2, 3), "cpu", True)
    assert str(TORCH.tensor(array).dtype) == name
    assert TORCH.tensor(array).data_ptr() == array.data_ptr()


def test_frameworks_are_recognised(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    assert framework_of(np.zeros(1), "x") is NUMPY
    assert framework_of(np.memmap(tmp_path / "x", np.float32, "w+", shape=(1,)), "x") is NUMPY
    assert framework_of(torch.nn.Parameter(torch.zeros(1)), "x") is TORCH
    foreign = tvm_ffi.from_dlpack(np.zeros((2, 2), np.float32))
    assert framework_of(foreign, "x") is DLPACK
    assert DLPACK.facts(foreign) == ("float32", (2, 2), "cpu", True)
    assert DLPACK.strides(foreign) == (2, 1)


@pytest.mark.parametrize("shape", [(), (1,), (7, 3), (0, 4)])
def test_fresh_outputs_start_on_a_cache_line(shape: tuple[int, ...]) -> None:
    for dtype in DTYPES.values():
        array = empty(shape, dtype.numpy)
        assert (array.shape, array.dtype, array.flags.writeable) == (shape, dtype.numpy, True)
        assert array.flags.c_contiguous and array.ctypes.data % 64 == 0
