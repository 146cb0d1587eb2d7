"""Everything that can be wrong with arrays, device, driver, memory and launches, each a typed error. Run by run.py."""

from __future__ import annotations

import shutil

import fake
import numpy as np
import pytest
from fake import BUNDLE, STREAM, DeviceArray, run

from treadle.errors import AlignmentError, ArchError, BundleError, DeviceError
from treadle.runtime import cuda, load

NO_IMAGE, ILLEGAL, OOM = 209, 700, 2


def test_arrays_elsewhere_are_refused(session, arrays):
    import torch

    y = arrays(1, 1)[1]
    for wrong, move in ((np.zeros((1, 1, 32), np.float32), r"torch.from_dlpack\(x\)"), (torch.zeros(1, 1, 32), "x")):
        with pytest.raises(DeviceError, match=rf"given cpu, expected cuda:0. Move it there with {move}.to\(\"cuda:0\"\)"):
            session.run(x=wrong, out={"y": y}, stream=STREAM)
    elsewhere = DeviceArray((1, 1, 32), device=1)
    with pytest.raises(DeviceError, match="given cuda:1, expected cuda:0"):
        session.run(x=elsewhere, out={"y": y}, stream=STREAM)
    elsewhere.free()
    askew = DeviceArray((1, 1, 32), offset=4)
    with pytest.raises(AlignmentError, match=r"input 'x' starts at.*aligned to 4 bytes, expected a multiple of 16 bytes"):
        session.run(x=askew, out={"y": y}, stream=STREAM)
    askew.free()
    assert fake.launched() == []


def test_a_launch_that_fails_names_node_and_kernel(session, arrays):
    pair = arrays(1, 1)
    for nth, node in ((1, "pre"), (2, "post"), (3, "planes"), (4, "pool")):
        fake.fail("cudaLaunchKernelExC", NO_IMAGE, nth)
        with pytest.raises(DeviceError, match=rf"main: node {node} \(kernel \w+\): CUDA launch: no kernel image"):
            run(session, pair)
    run(session, pair)


def test_work_that_fails_meanwhile_is_found_after_the_last_launch(session, arrays):
    pair = arrays(1, 1)
    run(session, pair)
    fake.fail("cudaPeekAtLastError", ILLEGAL, 2)
    with pytest.raises(DeviceError, match=r"after the last launch, node pool \(kernel \w+\): an illegal memory access"):
        run(session, pair)
    fake.runtime.cudaFree(8)  # the caller's own mistake, pending: not ours to report
    run(session, pair)
    fake.runtime.cudaGetLastError()


def test_out_of_memory_at_every_allocation(arrays):
    fake.fail("cudaMalloc", OOM)
    with pytest.raises(DeviceError, match="the library refuses to start: device memory for the weights: out of memory"):
        load(BUNDLE, "cuda:0")
    fake.fail("cudaMemcpy", ILLEGAL, 3)
    with pytest.raises(DeviceError, match="uploading the weights: an illegal memory access"):
        load(BUNDLE, "cuda:0")
    with load(BUNDLE, "cuda:0") as session:
        small, large = arrays(1, 1), arrays(2, 2)
        run(session, small)
        fake.fail("cudaMalloc", OOM)
        with pytest.raises(DeviceError, match=r"main: device memory for \d+ arena bytes: out of memory"):
            run(session, large)
        assert session.arena_bytes == 0
        run(session, large)
        fake.log()


@pytest.mark.parametrize(
    ("claimed", "kind", "words"),
    [
        ({"init": 100}, DeviceError, "the NVIDIA driver refuses cuInit: given CUDA_ERROR_NO_DEVICE"),
        ({"devices": 0}, DeviceError, "no CUDA device on this machine"),
        (
            {"driver": 12080},
            DeviceError,
            r"driver is older than the CUDA runtime: given a driver for CUDA 12\.8, runtime 13\.0",
        ),
        (
            {"capability": 80},
            ArchError,
            r"holds no code for Stand-in GPU \(cuda:0, sm_80\): given code for sm_90a, expected code for sm_80\. "
            r"Run `treadle compile small --target cuda:sm_80 -o",
        ),
        ({"capability": 100}, ArchError, "--target cuda:sm_100a"),
    ],
)
def test_a_machine_that_cannot(monkeypatch, claimed, kind, words):
    cuda._driver.cache_clear()
    fake.claim(monkeypatch, **claimed)
    with pytest.raises(kind, match=words):
        load(BUNDLE, "cuda:0")
    cuda._driver.cache_clear()
    assert not [line for line in fake.log() if "Malloc" in line]


def test_an_index_out_of_range():
    words = r"no device cuda:3: given 1 CUDA device, expected an index below 1\. Use device='cuda:0'"
    with pytest.raises(DeviceError, match=words):
        load(BUNDLE, "cuda:3")


def test_a_missing_library_is_found_before_the_device_is_touched(tmp_path):
    copy = shutil.copytree(BUNDLE, tmp_path / "b.treadle")
    (copy / "lib/cuda-sm_90a.so").unlink()
    with pytest.raises(BundleError, match=r"lib/cuda-sm_90a\.so"):
        load(copy, "cuda:0")


def test_a_missing_image_is_found_at_the_first_call_and_names_the_kernel(monkeypatch, arrays):
    """CUDA looks for machine code when a kernel is first launched, and says then that there is none."""
    pair = arrays(1, 1)
    with load(BUNDLE, "cuda:0") as session:
        fake.claim(monkeypatch, capability=80)
        with pytest.raises(DeviceError, match=r"node pre .*no kernel image is available"):
            run(session, pair)
        fake.log()
