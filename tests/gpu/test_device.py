"""On a CUDA device: streams, graphs, memory. Travels in the kit, and runs there by `run.sh --only tests`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from treadle.errors import AlignmentError, DeviceError
from treadle.runtime import Session, load

KIT = os.environ.get("TREADLE_KIT")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine"),
    pytest.mark.skipif(KIT is None, reason="TREADLE_KIT names no kit; run these by `bash gpu-kit/run.sh --only tests`"),
]


@pytest.fixture(scope="module")
def bundle() -> Path:
    return Path(str(KIT)) / "bundles" / "cgspn-tiny-float32.treadle"


@pytest.fixture
def session(bundle: Path) -> Session:
    return load(bundle, "cuda:0")


def image(n: int, side: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(n, 3, side, side, device="cuda", generator=generator)


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[n], right[n]) for n in left)


def test_a_thousand_calls_give_the_same_bits(session: Session) -> None:
    x = image(2, 56)
    first = session.run(image=x)
    out = {n: torch.empty_like(y) for n, y in first.items()}
    differ = torch.zeros((), dtype=torch.bool, device="cuda")
    for _ in range(1000):
        session.run(image=x, out=out)
        for n in first:
            differ |= (out[n] != first[n]).any()
    assert not differ.item()


def test_a_call_returns_before_its_work_is_done(session: Session) -> None:
    x = image(2, 56)
    out = session.run(image=x)
    torch.cuda.synchronize()
    torch.cuda._sleep(1 << 31)  # cycles: about a second in which nothing behind it can run
    session.run(image=x, out=out)
    done = torch.cuda.Event()
    done.record()
    waited = done.query()
    torch.cuda.synchronize()
    assert not waited


def test_a_captured_call_replays_on_new_data_and_survives_growth(session: Session) -> None:
    x = image(1, 56)
    out = session.run(image=x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        session.run(image=x, out=out)
    session.run(image=image(4, 112))  # the arena moves; the graph keeps the old one
    x.copy_(image(1, 56, seed=1))
    graph.replay()
    assert equal(out, session.run(image=x))


def test_capturing_before_a_first_call_says_what_to_do(session: Session) -> None:
    x = image(1, 56)
    out = load(session.bundle.path, "cuda:0").run(image=x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        graph.capture_begin()
        with pytest.raises(DeviceError, match="run once at this size before capturing"):
            session.run(image=x, out=out)
        graph.capture_end()
    assert equal(session.run(image=x), out)


def test_calls_on_alternating_streams_share_one_arena(session: Session) -> None:
    inputs = [image(2, 84, seed) for seed in range(8)]
    wanted = [session.run(image=x) for x in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    given = []
    for i, x in enumerate(inputs):
        with torch.cuda.stream(streams[i % 2]):
            given.append(session.run(image=x))
    torch.cuda.synchronize()
    assert all(equal(a, b) for a, b in zip(given, wanted, strict=True))


def test_stream_is_given_by_address(session: Session) -> None:
    x, stream = image(1, 56), torch.cuda.Stream()
    wanted = session.run(image=x)
    torch.cuda.synchronize()
    given = session.run(image=x, stream=stream.cuda_stream)
    stream.synchronize()
    assert equal(given, wanted)


def test_a_stream_of_cuda_python(session: Session) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="no cuda-python here")
    x = image(1, 56)
    wanted = session.run(image=x)
    torch.cuda.synchronize()
    code, stream = runtime.cudaStreamCreate()
    assert code == runtime.cudaError_t.cudaSuccess
    given = session.run(image=x, stream=stream)
    runtime.cudaStreamSynchronize(stream)
    assert equal(given, wanted)
    torch.cuda.synchronize()
    runtime.cudaStreamDestroy(stream)


def test_a_second_call_takes_no_device_memory(session: Session) -> None:
    x = image(4, 112)
    out = session.run(image=x)
    torch.cuda.synchronize()
    free = torch.cuda.mem_get_info()[0]
    for _ in range(20):
        session.run(image=x, out=out)
    torch.cuda.synchronize()
    assert torch.cuda.mem_get_info()[0] == free


def test_a_cpu_tensor_is_refused(session: Session) -> None:
    with pytest.raises(DeviceError, match=r'image.to\("cuda:0"\)'):
        session.run(image=image(1, 56).cpu())


def test_a_misaligned_pointer_is_refused(session: Session) -> None:
    askew = torch.zeros(3 * 56 * 56 + 1, device="cuda")[1:].view(1, 3, 56, 56)
    with pytest.raises(AlignmentError, match="expected a multiple of 16 bytes"):
        session.run(image=askew)


def test_closed_sessions_give_their_memory_back(bundle: Path) -> None:
    load(bundle, "cuda:0").run(image=image(1, 56))
    torch.cuda.synchronize()
    free = torch.cuda.mem_get_info()[0]
    for _ in range(5):
        with load(bundle, "cuda:0") as session:
            session.run(image=image(1, 56))
    torch.cuda.synchronize()
    assert torch.cuda.mem_get_info()[0] >= free
