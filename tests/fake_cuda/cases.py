"""Sessions on the stand-in device: what is called, in which order, on which stream; and every fault. Run by run.py."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import timeit
import types
from pathlib import Path

import fake
import numpy as np
import pytest
import tvm_ffi
from fake import DeviceArray

from treadle.errors import AlignmentError, ArchError, ArgumentError, BundleError, DeviceError
from treadle.runtime import Session, cuda, load
from treadle.runtime.bundle import write_sums

BUNDLE = Path(os.environ["FAKE_CUDA_BUNDLE"])
ORDER = ["norm_layer_norm", "gemm_linear", "norm_layer_norm"]
STREAM = 0x7000
WAITS = ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaMemcpy", "cudaMalloc", "cudaFree")


@pytest.fixture(autouse=True)
def nothing_leaks():
    gc.collect()
    before = fake.live()
    fake.log()
    yield
    gc.collect()
    assert fake.live() == before


@pytest.fixture
def session():
    with load(BUNDLE, "cuda:0") as made:
        fake.log()
        yield made


@pytest.fixture
def arrays():
    """Inputs and outputs for a given N and P, freed at the end."""
    made = []

    def make(n: int, p: int):
        pair = DeviceArray((n, p, 32)), DeviceArray((n, p, 64))
        made.extend(pair)
        fake.log()
        return pair

    yield make
    for array in made:
        array.free()


def run(session: Session, pair, stream=STREAM):
    x, y = pair
    return session.run(x=x, out={"y": y}, stream=stream)


def test_weights_are_uploaded_once_and_complete_before_any_stream_may_read_them():
    with load(BUNDLE, "cuda") as session:
        assert session.device == "cuda:0"
        expected = [f"cudaMemcpy {w.nbytes}" for w in session.bundle.weights.values()]
        assert fake.log() == ["cudaMalloc 9728", *expected, "cudaDeviceSynchronize"]
        clone = session.clone()
        assert fake.log() == []
    assert not [line for line in fake.log() if line.startswith("cudaFree 9728")]  # the clone still reads them
    clone.close()
    assert "cudaFree 9728" in fake.log()


def test_a_call_launches_in_plan_order_on_the_given_stream(session, arrays):
    pair = arrays(2, 5)
    fake.runtime.fake_arguments(b"", 0)
    run(session, pair)
    first = fake.log()
    run(session, pair)
    second = fake.log()
    assert first[0].startswith("cudaMalloc") and [line for line in first[1:] if line.startswith(WAITS)] == []
    launches = [line for line in second if line.startswith("launch")]
    assert [line.split()[1].rsplit("_", 2)[0] for line in launches] == ORDER
    assert all("stream=0x7000 " in line for line in launches)
    # Beside attributes and launches there is one event, which orders a call on another stream behind this one.
    assert [line for line in second if not line.startswith(("launch", "attribute"))] == ["record 0x7000"]
    assert pair[0].streams[-1] == STREAM  # the producer was told who will read


def test_the_kernels_get_the_addresses_of_the_plan(session, arrays):
    pair = arrays(1, 1)
    run(session, pair)
    names = [line.split()[1] for line in fake.log() if line.startswith("launch")]
    for name in names:
        fake.runtime.fake_arguments(name.encode(), 3)
    run(session, pair)
    lines = [line for line in fake.log() if line.startswith("launch")]
    pointers = [{int(v, 16) for v in line.rpartition("args=")[2].split(",")} for line in lines]
    for name in names:
        fake.runtime.fake_arguments(name.encode(), 0)
    assert pair[0].host.ctypes.data in pointers[0]
    assert all(p % 16 == 0 for p in pointers[0])


def test_memory_grows_to_the_largest_call_and_never_again(session, arrays):
    sizes, pairs = [(2, 5), (1, 5), (4, 64), (2, 5), (4, 64)], {}
    allocations = []
    for size in sizes:
        pair = pairs.setdefault(size, None) or arrays(*size)
        pairs[size] = pair
        run(session, pair)
        allocations.append([line for line in fake.log() if line.startswith(WAITS)])
    assert [len(a) for a in allocations] == [1, 0, 3, 0, 0]
    wait, free, malloc = allocations[2]
    assert (
        wait == "cudaDeviceSynchronize"
        and free == allocations[0][0].replace("Malloc", "Free")
        and malloc.startswith("cudaMalloc")
    )
    assert session.arena_bytes == 4 * 64 * 32 * 4 + 4 * 64 * 64 * 4


def test_another_stream_waits_for_the_last_call(session, arrays):
    pair = arrays(1, 4)
    run(session, pair)
    fake.log()
    run(session, pair, 0x8000)
    lines = fake.log()
    assert lines[0] == "wait 0x8000" and lines[-1] == "record 0x8000"
    run(session, pair, 0x8000)
    assert not [line for line in fake.log() if line.startswith("wait")]


def test_a_whole_call_can_be_captured_after_one_at_its_size(session, arrays):
    small, large = arrays(1, 4), arrays(2, 64)
    with fake.capture(), pytest.raises(DeviceError, match=r"main: the arena must grow.*run once at this size before capturing"):
        run(session, small)
    run(session, small)
    fake.log()
    with fake.capture():
        run(session, small)
    assert [line for line in fake.log() if not line.startswith(("launch", "attribute"))] == []
    run(session, large)  # the graph holds the old arena's address: it stays until the session ends
    assert not [line for line in fake.log() if line.startswith("cudaFree")]


def test_streams_of_every_kind(session, arrays):
    pair = arrays(1, 1)

    class Protocol:
        def __cuda_stream__(self):
            return 0, 0x11

    class Int:
        def __int__(self):
            return 0x14

    kinds = {
        0x10: 0x10,
        0x11: Protocol(),
        0x12: types.SimpleNamespace(handle=Int()),
        0x13: types.SimpleNamespace(ptr=0x13),
        0x14: Int(),
        0: 0,
    }
    for handle, stream in kinds.items():
        run(session, pair, stream)
        shown = hex(0x14) if handle == 0x12 else hex(handle) if handle else "(nil)"
        assert all(f"stream={shown} " in line for line in fake.log() if line.startswith("launch"))
    assert pair[0].streams[-1] == 1  # DLPack's name for the legacy default stream
    for wrong in ("0x10", 1.5, True, object()):
        with pytest.raises(ArgumentError, match="stream= is no CUDA stream"):
            run(session, pair, wrong)


def test_the_default_stream_is_never_taken_by_accident(session, arrays):
    pair = arrays(1, 1)
    with pytest.raises(ArgumentError, match=r"no stream is known to run on cuda:0.*stream=0 is the legacy default stream"):
        run(session, pair, None)
    with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda:0"), 0x99):
        run(session, pair, None)
    assert "stream=0x99 " in fake.log()[-2]


def test_fresh_results_are_torch_tensors_on_the_device(session, arrays, monkeypatch):
    import torch

    x, y = arrays(1, 2)
    asked = []
    monkeypatch.setattr(torch, "empty", lambda *args, **named: asked.append((args, named)) or y)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle, device: (handle, device))
    monkeypatch.setattr(
        torch.cuda,
        "stream",
        lambda stream: asked.append(stream) or fake.capture.__globals__["contextmanager"](lambda: (yield))(),
    )
    monkeypatch.setattr(
        type(session._entries["main"].signature.outputs[0]).__mro__[0],
        "convert",
        lambda self, array, *rest: tvm_ffi.from_dlpack(array.__dlpack__()),
        raising=True,
    )
    assert session.run(x=x, stream=STREAM)["y"] is y
    assert asked[0] == (STREAM, "cuda:0")  # so that torch's allocator knows who uses the memory
    assert asked[1] == (((1, 2, 64),), {"dtype": torch.float32, "device": "cuda:0"})
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceError, match="fresh results on cuda:0 are torch tensors"):
        session.run(x=x, stream=STREAM)


def test_arrays_elsewhere_are_refused(session, arrays):
    import torch

    _x, y = arrays(1, 1)
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


def test_sizes_of_zero_launch_nothing(session, arrays):
    run(session, arrays(0, 3))
    assert fake.launched() == []


def test_the_callers_device_stays_current(arrays, monkeypatch):
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "2")
    with load(BUNDLE, "cuda:1") as session:
        assert fake.log()[0] == "cudaSetDevice 1"
        pair = DeviceArray((1, 1, 32), device=1), DeviceArray((1, 1, 64), device=1)
        run(session, pair)
        assert [line for line in fake.log() if "SetDevice" in line] == ["cudaSetDevice 1", "cudaSetDevice 0"]
        for array in pair:
            array.free()


NO_IMAGE, ILLEGAL, OOM = 209, 700, 2


def test_a_launch_that_fails_names_node_and_kernel(session, arrays):
    pair = arrays(1, 1)
    for nth, node in ((1, "pre"), (2, "fc"), (3, "post")):
        fake.fail("cudaLaunchKernelExC", NO_IMAGE, nth)
        with pytest.raises(DeviceError, match=rf"main: node {node} \(kernel \w+\): CUDA launch: no kernel image"):
            run(session, pair)
    run(session, pair)


def test_work_that_fails_meanwhile_is_found_after_the_last_launch(session, arrays):
    pair = arrays(1, 1)
    run(session, pair)
    fake.fail("cudaPeekAtLastError", ILLEGAL, 2)
    with pytest.raises(DeviceError, match=r"after the last launch, node post \(kernel \w+\): an illegal memory access"):
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
    ("variables", "kind", "words"),
    [
        ({"FAKE_CUDA_INIT": "100"}, DeviceError, "the NVIDIA driver refuses cuInit: given CUDA_ERROR_NO_DEVICE"),
        ({"FAKE_CUDA_DEVICES": "0"}, DeviceError, "no CUDA device on this machine"),
        ({"FAKE_CUDA_DRIVER": "12080"}, DeviceError, "driver is older than the CUDA runtime: given a driver for CUDA 12.8, runtime 13.0"),
        ({"FAKE_CUDA_CAPABILITY": "80"}, ArchError, r"holds no code for Stand-in GPU \(cuda:0, sm_80\): given code for sm_90a, "
         r"expected code for sm_80. Run `treadle compile small --target cuda:sm_80 -o"),
        ({"FAKE_CUDA_CAPABILITY": "100"}, ArchError, "--target cuda:sm_100a"),
    ],
)  # fmt: skip
def test_a_machine_that_cannot(monkeypatch, variables, kind, words):
    cuda._driver.cache_clear()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(kind, match=words):
        load(BUNDLE, "cuda:0")
    cuda._driver.cache_clear()
    assert not [line for line in fake.log() if "Malloc" in line]


def test_an_index_out_of_range():
    with pytest.raises(
        DeviceError, match="no device cuda:3: given 1 CUDA device, expected an index below 1. Use device='cuda:0'"
    ):
        load(BUNDLE, "cuda:3")


def test_a_missing_library_is_found_before_the_device_is_touched(tmp_path):
    copy = shutil.copytree(BUNDLE, tmp_path / "b.treadle")
    (copy / "lib/cuda-sm_90a.so").unlink()
    with pytest.raises(BundleError, match="lib/cuda-sm_90a.so"):
        load(copy, "cuda:0")


def test_a_missing_image_is_found_at_the_first_call_and_names_the_kernel(tmp_path, arrays):
    """The manifest promises an architecture that the library has no image for: CUDA says so at the launch."""
    copy = shutil.copytree(BUNDLE, tmp_path / "b.treadle")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["libraries"][0]["target"] = "cuda:sm_90"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    write_sums(copy)
    with load(copy, "cuda:0") as session:
        fake.fail("cudaLaunchKernelExC", NO_IMAGE)
        with pytest.raises(DeviceError, match="node pre .*no kernel image is available"):
            run(session, arrays(1, 1))
        fake.log()


def test_host_cost(session, arrays, capsys):
    pair = arrays(1, 1)
    run(session, pair)
    fake.runtime.fake_logging(0)
    entry = session._entries["main"].function
    given = [tvm_ffi.from_dlpack(a.__dlpack__()) for a in pair]
    with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda:0"), STREAM):
        bare = min(timeit.repeat(lambda: entry(session._handle, *given), number=2000, repeat=5)) / 2000
    whole = min(timeit.repeat(lambda: run(session, pair), number=500, repeat=5)) / 500
    fake.runtime.fake_logging(1)
    with capsys.disabled():
        print(
            f"\nCUDA host cost, 3 launches: entry {bare * 1e6:.2f} us ({bare / 3 * 1e6:.2f} per launch), Session.run {whole * 1e6:.1f} us"
        )
    assert bare < 100e-6  # a guard against an accident, not a benchmark
