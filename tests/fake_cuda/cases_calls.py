"""Sessions on the stand-in device: what is called, in which order, and on which stream. Run by run.py."""

from __future__ import annotations

import sys
import timeit
import types
from contextlib import nullcontext

import fake
import numpy as np
import pytest
import tvm_ffi
from fake import BUNDLE, ORDER, STREAM, DeviceArray, run

from treadle.errors import ArgumentError, DeviceError
from treadle.runtime import load, stream
from treadle.runtime.tensors import DLPACK, TORCH

WAITS = ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaMemcpy", "cudaMalloc", "cudaFree")


def test_weights_are_uploaded_once_and_complete_before_any_stream_may_read_them():
    with load(BUNDLE, "cuda") as session:
        assert session.device == "cuda:0"
        weights = session.bundle.weights.values()
        total = sum(-(-w.nbytes // 256) * 256 for w in weights)
        assert fake.log() == [f"cudaMalloc {total}", *(f"cudaMemcpy {w.nbytes}" for w in weights), "cudaDeviceSynchronize"]
        clone = session.clone()
        assert fake.log() == []
    assert fake.log() == []  # the clone still reads them
    clone.close()
    assert fake.log() == [f"cudaFree {total}"]


def test_a_call_launches_in_plan_order_on_the_given_stream(session, arrays):
    pair = arrays(2, 5)
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
    assert wait == "cudaDeviceSynchronize" and malloc.startswith("cudaMalloc")
    assert free == allocations[0][0].replace("Malloc", "Free")
    assert session.arena_bytes == 2 * 4 * 64 * 32 * 4


def test_another_stream_waits_for_the_last_call(session, arrays):
    pair = arrays(1, 4)
    run(session, pair)
    fake.log()
    run(session, pair, 0x8000)
    lines = fake.log()
    assert lines[0] == "wait 0x8000" and lines[-1] == "record 0x8000"
    run(session, pair, 0x8000)
    assert not [line for line in fake.log() if line.startswith("wait")]
    fake.runtime.fake_stream_number(0x8000, 9)  # destroyed, and another stream has got its handle
    run(session, pair, 0x8000)
    assert fake.log()[0] == "wait 0x8000"


def test_a_whole_call_can_be_captured_after_one_at_its_size(session, arrays):
    small, large = arrays(1, 4), arrays(2, 64)
    growing = r"main: the arena must grow.*run once at this size before capturing"
    with fake.capture(), pytest.raises(DeviceError, match=growing):  # said before anything that would spoil the capture
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
    for handle, given in kinds.items():
        run(session, pair, given)
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


def test_torch_tensors_run_on_torchs_current_stream(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: types.SimpleNamespace(cuda_stream=0x70 + index))
    device = tvm_ffi.device("cuda:1")
    assert stream.current([np.zeros(1), torch.zeros(1)], device) == 0x71
    assert stream.current([np.zeros(1)], device) is None


def test_fresh_results_are_torch_tensors_on_the_device(session, arrays, monkeypatch):
    import torch

    x, y = arrays(1, 2)
    asked = []
    monkeypatch.setattr(type(TORCH), "tensor", lambda self, array: DLPACK.tensor(array))  # y is not really torch's
    monkeypatch.setattr(torch, "empty", lambda *args, **named: asked.append((args, named)) or y)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle, device: (handle, device))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: asked.append(stream) or nullcontext())
    assert session.run(x=x, stream=STREAM)["y"] is y
    assert asked[0] == (STREAM, "cuda:0")  # so that torch's allocator knows who uses the memory
    assert asked[1] == (((1, 32),), {"dtype": torch.float32, "device": "cuda:0"})
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceError, match="fresh results on cuda:0 are torch tensors"):
        session.run(x=x, stream=STREAM)


def test_sizes_of_zero_launch_nothing(session, arrays):
    run(session, arrays(0, 3))
    assert fake.launched() == []


def test_the_callers_device_stays_current(arrays, monkeypatch):
    fake.claim(monkeypatch, devices=2)
    with load(BUNDLE, "cuda:1") as session:
        assert fake.log()[0] == "cudaSetDevice 1"
        pair = DeviceArray((1, 1, 32), device=1), DeviceArray((1, 32), device=1)
        run(session, pair)
        assert [line for line in fake.log() if "SetDevice" in line] == ["cudaSetDevice 1", "cudaSetDevice 0"]
        for array in pair:
            array.free()


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
        each = bare / len(ORDER) * 1e6
        print(f"\nCUDA host cost: {bare * 1e6:.2f} us for an entry, {each:.2f} us a launch; Session.run {whole * 1e6:.1f} us")
    assert bare < 100e-6  # a guard against an accident, not a benchmark
