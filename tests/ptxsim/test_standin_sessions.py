"""Sessions of a bundle on the stand-in for CUDA, in Python and in C++, and what goes wrong in either."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def bundle(standin, tmp_path_factory):
    """A graph of two kernels: a mean of normalised rows."""
    from treadle.codegen import weights
    from treadle.codegen.bundle import write_bundle
    from treadle.ir.graph import Graph
    from treadle.schedules.target import Target

    graph = Graph("small")
    n, p = graph.dim("N", 0, 64), graph.dim("P", 1, 4096)
    x = graph.input("x", (n, p, 32), "float32")
    graph.output("y", graph.call("pool", "image.mean_pool", graph.call("planes", "image.to_planes", x)))
    path = tmp_path_factory.mktemp("bundle") / "small.treadle"
    write_bundle(graph, Target.parse("cuda:sm_90a"), path, weights.draw(graph, 0))
    return path


def python(code, *args):
    """What Python code prints as JSON, in a process of its own: a process has one CUDA."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SESSION = """
import json, sys
import numpy as np
import treadle
session = treadle.load(sys.argv[1], device="ptx:sm_90a")
x = np.random.default_rng(0).standard_normal((3, 50, 32)).astype(np.float32)
first = session.run(x=x)["y"]
out = np.empty((3, 32), np.float32)
with session.clone() as twin:
    assert twin.run(x=x, out={"y": out})["y"] is out
error = float(np.abs(first - x.mean(axis=1)).max())
empty = session.run(x=x[:0])["y"].shape
print(json.dumps([session.device, error, bool((first == out).all()), empty]))
"""


def test_a_session_of_a_bundle_takes_arrays_of_the_host(bundle):
    device, error, same, empty = python(SESSION, bundle)
    assert device == "ptx:sm_90a" and error < 1e-6 and same and empty == [0, 32]


REFUSED = """
import json, sys
import treadle
try:
    session = treadle.load(sys.argv[1], device=sys.argv[2])
    import numpy as np
    session.run(x=np.zeros((1, 4, 32), np.float32))
except treadle.errors.TreadleError as wrong:
    print(json.dumps([type(wrong).__name__, str(wrong)]))
"""


def test_another_architecture(bundle):
    kind, said = python(REFUSED, bundle, "ptx:sm_80")
    assert kind == "ArchError" and "given targets cuda:sm_90a, expected target cuda:sm_80" in said


def test_a_bundle_without_ptx(bundle, tmp_path):
    from treadle.runtime.bundle import write_sums

    copy = shutil.copytree(bundle, tmp_path / "b.treadle")
    (copy / "sources" / "sm_90a.ptx").unlink()
    write_sums(copy)
    kind, said = python(REFUSED, copy, "ptx:sm_90a")
    assert kind == "BundleError" and "sources/sm_90a.ptx" in said and "treadle compile" in said


@pytest.fixture(scope="module")
def without_barriers(bundle, tmp_path_factory):
    """The bundle, and PTX without the barrier that the tile of `to_planes` needs."""
    from treadle.runtime.bundle import write_sums

    copy = shutil.copytree(bundle, tmp_path_factory.mktemp("planted") / "b.treadle")
    file = copy / "sources" / "sm_90a.ptx"
    text = file.read_text()
    assert "bar.sync" in text
    file.write_text("\n".join(row for row in text.splitlines() if "bar.sync" not in row))
    write_sums(copy)
    return copy


TWICE = """
import json, sys
import numpy as np
import treadle
session = treadle.load(sys.argv[1], device="ptx:sm_90a")
said = []
for _ in range(2):
    try:
        session.run(x=np.zeros((1, 40, 32), np.float32))
    except treadle.errors.TreadleError as wrong:
        said.append([type(wrong).__name__, str(wrong)])
session.close()
print(json.dumps(said))
"""


def test_a_kernel_that_misses_a_barrier_is_found_and_breaks_the_device(without_barriers):
    (kind, said), (again, later) = python(TWICE, without_barriers)
    assert again == "DeviceError" and "RaceHazard: kernel image_to_planes" in later
    assert kind == "DeviceError" and "RaceHazard: kernel image_to_planes" in said and "use a new process" in said
    assert "main: node planes" in said


def test_a_process_that_has_cuda_already(bundle, standin, tmp_path):
    from treadle.codegen import nvcc

    code = f"import ctypes; ctypes.CDLL({str(nvcc.find().cudart)!r})\n{REFUSED}"
    kind, said = python(code, bundle, "ptx:sm_90a")
    assert kind == "DeviceError" and "this process has loaded CUDA" in said and "torch's CPU build" in said


@pytest.fixture(scope="module")
def session(standin, tmp_path_factory):
    """session(bundle): what session.cc prints, a program that is built without CUDA and without the stand-in."""
    import tvm_ffi

    from treadle.codegen.cxx import compiler

    file = tmp_path_factory.mktemp("session") / "session"
    ffi = tvm_ffi.libinfo
    include = (HERE.parents[1] / "runtime" / "cpp" / "include", ffi.find_include_path(), ffi.find_dlpack_include_path())
    flags = ["-std=c++17", "-O1", *(f"-I{folder}" for folder in include), "-ldl", "-pthread"]
    subprocess.run([compiler()[0], HERE / "standin" / "session.cc", "-o", file, *flags], check=True)
    beside = Path(ffi.find_libtvm_ffi()).parent

    def run(bundle):
        environment = standin.environment()
        environment["LD_LIBRARY_PATH"] += f":{beside}"
        return subprocess.run([file, bundle], capture_output=True, text=True, env=environment, timeout=120).stdout.splitlines()

    return run


def test_a_session_in_cpp(session, bundle):
    assert session(bundle) == ["0 wrong of 64"] * 2


def test_a_session_in_cpp_hears_of_a_hazard(session, without_barriers):
    (said,) = session(without_barriers)
    assert said.startswith("DeviceError: main: node planes (kernel image_to_planes") and "RaceHazard: kernel" in said
