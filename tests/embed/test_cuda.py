"""CUDA sessions in C++ without a GPU: on the stand-in device, as tests/fake_cuda sets it up: kernels are counted and never run."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from treadle.errors import ToolchainError

FAKE = Path(__file__).parents[1] / "fake_cuda"

#: The kernels of the small bundle, in its plan's order.
ORDER = ["norm_layer_norm", "norm_layer_norm", "image_to_planes", "image_mean_pool"]


@pytest.fixture(scope="module")
def kit() -> ModuleType:
    """tests/fake_cuda/run.py."""
    nvcc = pytest.importorskip("treadle.codegen.nvcc", reason="building a CUDA bundle needs the compiler extra")
    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(f"building a CUDA bundle needs nvcc: {missing}")
    spec = importlib.util.spec_from_file_location("fake_cuda_run", FAKE / "run.py")
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    return kit


@pytest.fixture(scope="module")
def bundles(kit, once) -> Path:
    """A folder with two bundles."""

    def make(folder: Path) -> None:
        pooled = kit.Graph("pooled")  # an image in, as examples/cpp/encode_cuda.cc gives it
        n, h, w = (pooled.dim(name, 1, 64) for name in "NHW")
        image = pooled.input("image", (n, 3, h, w), "float32")
        pooled.output("pooled", pooled.call("pool", "image.mean_pool", pooled.view(image, (n, 3, h * w))))
        for graph in (kit.small_graph(), pooled):
            kit.bundle.write_bundle(graph, kit.TARGET, folder / f"{graph.name}.treadle", kit.weights.draw(graph, 0))

    return once("bundles", make)


@pytest.fixture(scope="module")
def libraries(kit, tmp_path_factory) -> Path:
    """The folder of the stand-in's libraries."""
    return Path(kit.stand_in(tmp_path_factory.mktemp("stand-in"))["LD_LIBRARY_PATH"].split(":")[0])


@pytest.fixture(scope="module")
def on_stand_in(libraries, run) -> Callable[..., list[str]]:
    """on_stand_in(program, args..., fact=value...): the lines that the program prints there."""

    def on_stand_in(*command: object, visible: str | None = None, **facts: int) -> list[str]:
        claimed = " ".join(f"{name}={value}" for name, value in {"run": 0, "log": 1, **facts}.items())
        seen = ["-u", "CUDA_VISIBLE_DEVICES"] if visible is None else [f"CUDA_VISIBLE_DEVICES={visible}"]
        done = run("env", *seen, f"LD_LIBRARY_PATH={libraries}", f"TREADLE_PTX_DEVICE={claimed}", *command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    return on_stand_in


class Said:
    """What device.cc printed: the calls of each stage, what was said to each attempt, and facts."""

    def __init__(self, lines: list[str]) -> None:
        self.stages: dict[str, list[str]] = {}
        self.tried: dict[str, list[str]] = {}
        self.facts: dict[str, str] = {}
        for line in lines:
            if line.startswith("== "):
                self.stages[line[3:]] = calls = []
            elif line.startswith("-- "):
                name, value = re.fullmatch(r"-- (left on|\w+) (.*)", line).groups()
                self.facts[name] = value
            elif "\t" in line:
                case, *fields = line.split("\t")
                self.tried[case] = fields
            else:
                calls.append(line)


def launches(calls: list[str], stream: str) -> list[str]:
    """The Programs of the bundle launched in order, every one on that stream; returns the other calls."""
    launched = [line for line in calls if line.startswith("launch ")]
    assert [line.split()[1].rsplit("_", 2)[0] for line in launched] == ORDER
    assert all(f"stream={stream} " in line for line in launched), launched
    return [line for line in calls if line not in launched]


@pytest.fixture(scope="module")
def calls(bundles, programs, on_stand_in) -> Said:
    return Said(on_stand_in(programs / "device", bundles / "small.treadle", "calls"))


def test_what_a_call_asks_of_the_cuda_runtime(calls):
    stage = calls.stages
    assert stage["load"] == ["cudaMalloc 1024", *["cudaMemcpy 128"] * 4, "cudaDeviceSynchronize"]
    assert launches(stage["first call"], "0x7000") == ["cudaMalloc 256", "cudaMalloc 2560", "record 0x7000"]  # output, arena
    assert launches(stage["second call"], "0x7000") == ["cudaMalloc 256", "record 0x7000"]
    # Into the caller's memory nothing is allocated, and nobody waits but one stream for the other, on the device.
    assert launches(stage["another stream, into memory there"], "0x8000") == ["wait 0x8000", "record 0x8000"]
    assert launches(stage["the same again, from a DLTensor"], "0x8000") == ["record 0x8000"]
    assert stage["clone"] == []
    assert launches(stage["from another thread"], "0x9000") == ["cudaMalloc 2560", "record 0x9000"]
    assert calls.facts["left on"] == "(nil)"  # the streams of calls stay in them
    assert stage["sizes of zero"] == ["wait 0x7000", "record 0x7000"] and calls.facts["empty"] == "(0, 32)"


def test_copies_are_on_the_stream_and_over_when_they_return(calls):
    assert calls.stages["upload"] == ["cudaMalloc 1280", "cudaMemcpyAsync 1280 0x7000", "cudaStreamSynchronize 0x7000"]
    assert calls.stages["download"] == ["cudaMemcpyAsync 1280 0x7000", "cudaStreamSynchronize 0x7000"]
    assert calls.facts["back"] == "1 (2, 5, 32) on cpu"


def test_a_whole_call_can_be_captured_and_what_cannot_says_so_first(calls):
    assert launches(calls.stages["captured"], "0x8000") == []
    own = "give outputs of your own, and copy outside the capture"
    said = {case: fields[:2] for case, fields in calls.tried.items()}
    assert said == {
        "fresh outputs": ["DeviceError", f"main: output 'y': allocating cannot be captured; {own}"],
        "upload": ["DeviceError", f"upload: allocating cannot be captured; {own}"],
        "download": ["DeviceError", f"download: copying and waiting for it cannot be captured; {own}"],
        "a larger call": [
            "DeviceError",
            "main: the arena must grow to 2560 bytes, which cannot be captured; run once at this size before capturing",
        ],
    }
    assert calls.facts["spoilt"] == "0"


def test_everything_is_freed_and_arrays_outlive_their_session(calls):
    # Two arenas, and the weights with the last Session; a graph may hold the first arena, which went with its Session.
    assert calls.stages["sessions end"] == ["cudaFree 2560", "cudaFree 2560", "cudaFree 1024"]
    assert calls.facts["live"] == "0"


def test_another_device_is_current_during_calls_alone(bundles, programs, on_stand_in):
    lines = on_stand_in(programs / "device", bundles / "small.treadle", "cuda:1", devices=2)
    assert Said(lines).tried == {"cuda:1": ["accepted"]}


ELSEWHERE = "Copy it there, as Session::upload does for host memory."
OOM = "out of memory (cudaErrorMemoryAllocation)"
WRONG = {
    "no stream": ("ArgumentError", "main: no stream is known to run on cuda:0", "no stream", "run(inputs, treadle::Stream(s)) with the stream that your tensors are ready on", "Stream(nullptr) is the legacy default stream."),
    "host": ("DeviceError", "main: input 'x' is on another device than the session", "cpu", "cuda:0", ELSEWHERE),
    "device": ("DeviceError", "main: input 'x' is on another device than the session", "cuda:1", "cuda:0", ELSEWHERE),
    "null": ("ArgumentError", "main: input 'x' has no data", "a null pointer", "the address of 640 B", ""),
    "address": ("AlignmentError", "main: input 'x' starts at an address the kernels cannot use", "an address aligned to 4 bytes", "a multiple of 16 bytes", "Copy it into fresh memory."),
    "dtype": ("ArgumentError", "main: input 'x' has the wrong dtype", "int32", "float32", ""),
    "size": ("ArgumentError", "main: input 'x' has the wrong size in axis 2", "16, shape (2, 5, 16)", "32, shape (N, P, 32)", ""),
    "bound": ("BoundsError", "main: N, from x.shape[0], is outside the bundle's bounds", "65", "0 to 64", "Change the input, or compile again with `--dim N=LO..HI`."),
    "output host": ("DeviceError", "main: output 'y' is on another device than the session", "cpu", "cuda:0", ELSEWHERE),
    "output device": ("DeviceError", "main: output 'y' is on another device than the session", "cuda:1", "cuda:0", ELSEWHERE),
    "output address": ("AlignmentError", "main: output 'y' starts at an address the kernels cannot use", "an address aligned to 8 bytes", "a multiple of 16 bytes", "Copy it into fresh memory."),
    "output const": ("ArgumentError", "main: output 'y' is read-only", "", "", "Pass a tensor over non-const memory."),
    "overlap": ("ArgumentError", "main: output 'y' shares memory with main: input 'x'", "", "separate memory: kernels read inputs while they write", ""),
    "elements": ("DeviceError", "the array's elements are not in the host's memory", "cuda:0", "cpu", "Copy it with Session::download."),
    "upload device": ("DeviceError", "upload: argument 'host' is on another device than the session", "cuda:0", "cpu", "Copy it into host memory."),
    "download host": ("DeviceError", "download: argument 'source' is on another device than the session", "cpu", "cuda:0", ELSEWHERE),
    "download null": ("ArgumentError", "download: argument 'source' has no data", "a null pointer", "the address of 16 B", ""),
    "no memory for outputs": ("DeviceError", f"main: output 'y': device memory for 256 bytes: {OOM}", "", "", ""),
    "no memory for the arena": ("DeviceError", f"main: device memory for 2560 arena bytes: {OOM}", "", "", ""),
    "no memory to upload": ("DeviceError", f"upload: device memory for 1280 bytes: {OOM}", "", "", ""),
    "no memory for the weights": ("DeviceError", f"bundle BUNDLE: the library refuses to start: device memory for the weights: {OOM}", "", "", ""),
    "copy": ("DeviceError", "download: copying: an illegal memory access was encountered (cudaErrorIllegalAddress)", "", "", ""),
    "launch": ("DeviceError", "main: node post (kernel norm_layer_norm_HASH): CUDA launch: no kernel image is available for execution on the device", "", "", ""),
    "meanwhile": ("DeviceError", "main: after the last launch, node pool (kernel image_mean_pool_HASH): an illegal memory access was encountered (cudaErrorIllegalAddress)", "", "", ""),
    "good": ("accepted",),
}  # fmt: skip


def test_mistakes_and_failures_are_typed_and_named(bundles, programs, on_stand_in):
    bundle = bundles / "small.treadle"
    said = Said(on_stand_in(programs / "device", bundle, "wrong"))
    plain = {
        case: tuple(re.sub(r"_[0-9a-f]{12}\b", "_HASH", field.replace(str(bundle), "BUNDLE")) for field in fields)
        for case, fields in said.tried.items()
    }
    assert plain == WRONG
    # After all that no allocation is lost: the arena and its event remain, and go with the Session.
    assert said.facts == {"kept": "2", "live": "0"}


IN_PYTHON = """
import json, sys
from treadle.errors import TreadleError
from treadle.runtime import load
try:
    load(sys.argv[1], sys.argv[2])
except TreadleError as wrong:
    print(json.dumps(wrong.to_json()))
"""


@pytest.mark.parametrize(
    ("device", "facts", "kind", "words"),
    [
        ("cuda:0", {"init": 100}, "DeviceError", "the NVIDIA driver refuses cuInit"),
        ("cuda:0", {"init": 100, "visible": "7"}, "DeviceError", "refuses cuInit"),
        ("cuda:0", {"devices": 0}, "DeviceError", "no CUDA device on this machine"),
        ("cuda:3", {}, "DeviceError", "no device cuda:3"),
        ("cuda:2", {"devices": 2}, "DeviceError", "no device cuda:2"),
        ("cuda:0", {"driver": 12080}, "DeviceError", "driver is older than the CUDA runtime"),
        ("cuda:0", {"capability": 80}, "ArchError", "holds no code for Stand-in GPU (cuda:0, sm_80)"),
        ("cuda", {"capability": 100}, "ArchError", "holds no code for Stand-in GPU (cuda:0, sm_100)"),
        ("cpu", {}, "ArchError", "has no library for target cpu"),
    ],
)
def test_a_machine_that_cannot_is_refused_in_pythons_words(bundles, programs, on_stand_in, device, facts, kind, words):
    bundle = bundles / "small.treadle"
    ((case, fields),) = Said(on_stand_in(programs / "device", bundle, device, **facts)).tried.items()
    assert case == device and fields[0] == kind and words in fields[1]
    python = json.loads(on_stand_in(sys.executable, "-c", IN_PYTHON, bundle, device, **facts)[0])
    assert fields[:4] == [python[field] for field in ("type", "message", "given", "expected")]


@pytest.mark.parametrize(
    ("missing", "words", "expected"),
    [
        ("libcuda.so.1", "no NVIDIA driver on this machine", "libcuda.so.1, which the driver installs"),
        ("libcudart.so.13", "no CUDA runtime", "libcudart.so.13 on the program's rpath, in LD_LIBRARY_PATH, or in "),
    ],
)
def test_what_is_missing_is_named(libraries, bundles, programs, run, tmp_path, missing, words, expected):
    for library in ("libcuda.so.1", "libcudart.so.13"):
        shutil.copy(libraries / library, tmp_path)
    (tmp_path / missing).unlink()
    (tmp_path / missing).write_text("not a library: found before any that the machine may have")
    done = run("env", f"LD_LIBRARY_PATH={tmp_path}", programs / "device", bundles / "small.treadle", "cuda:0")
    ((_, fields),) = Said(done.stdout.splitlines()).tried.items()
    assert fields[:2] == ["DeviceError", words] and missing in fields[2] and fields[3].startswith(expected)


def test_the_example_needs_no_cuda_to_be_built(bundles, examples, on_stand_in, tmp_path):
    (tmp_path / "image.raw").write_bytes(bytes(3 * 4 * 8 * 4))
    (line,) = on_stand_in(examples / "encode_cuda", bundles / "pooled.treadle", tmp_path / "image.raw", 4, 8)
    assert re.fullmatch(r"pooled \(1, 3\) \S+", line)  # of memory that no kernel wrote
    needed = subprocess.run(["readelf", "-d", examples / "encode_cuda"], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"NEEDED.*(cuda|tvm|python)", needed)
