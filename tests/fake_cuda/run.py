"""Runs tests on the stand-in: python tests/fake_cuda/run.py FOLDER [pytest arguments]

Builds the stand-in and a small CUDA bundle in FOLDER, and starts pytest in a process that finds the stand-in first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import tvm

from treadle.codegen import bundle, cuda_packed, lower, nvcc, weights
from treadle.ir import build as program
from treadle.ir.graph import Graph, Init, Value
from treadle.schedules.target import Target
from treadle.settings import settings

HERE = Path(__file__).parent
TARGET = Target.parse("cuda:sm_90a")


def small_graph() -> Graph:
    """Four launches of three kernels, an arena region that is used twice, four weights."""
    graph = Graph("small")
    n, p = graph.dim("N", 0, 64), graph.dim("P", 1, 4096)

    def norm(name: str, x: Value) -> Value:
        weight, bias = (graph.weight(f"{name}.{w}", (32,), "float32", Init("normal", 0.1)) for w in ("weight", "bias"))
        return graph.call(name, "norm.layer_norm", x, weight, bias)

    rows = graph.view(graph.input("x", (n, p, 32), "float32"), (n * p, 32))
    twice = norm("post", norm("pre", rows))
    planes = graph.call("planes", "image.to_planes", graph.view(twice, (n, p, 32)))
    graph.output("y", graph.call("pool", "image.mean_pool", planes))
    return graph


def stand_in(folder: Path) -> dict[str, str]:
    """Builds the stand-in there; the environment of a process that finds it before any other CUDA library."""
    # A library asks the runtime for `cudaMalloc@libcudart.so.13`: the symbols carry the library's name as their version.
    (folder / "version.map").write_text("libcudart.so.13 { *; };\n")
    options = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-isystem{nvcc.find().include}"]
    for name, more in (("libcudart.so.13", ["-Wl,--version-script=version.map"]), ("libcuda.so.1", [])):
        command = [settings.cxx, *options, *more, f"-Wl,-soname,{name}", *map(str, HERE.glob("*.cc")), "-o", name]
        subprocess.run(command, cwd=folder, check=True)
    hidden = {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER")}
    return hidden | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}


def build(folder: Path) -> dict[str, str]:
    """The stand-in, a bundle and a packed library; the environment of a process that uses them."""
    environment = stand_in(folder)
    graph = small_graph()
    bundle.write_bundle(graph, TARGET, folder / "small.treadle", weights.draw(graph, 0))
    norm = lower.lower(program("norm.layer_norm", "float32"), TARGET)
    cuda_packed.link_library([norm], TARGET, folder / "packed.so")
    return environment | {
        "FAKE_CUDA_BUNDLE": str(folder / "small.treadle"),
        "FAKE_CUDA_PACKED": f"{folder / 'packed.so'}:{norm.symbol}",
        "FAKE_CUDA_TVM": str(Path(tvm.__file__).parent / "lib"),
    }


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    target.mkdir(parents=True, exist_ok=True)
    cases = sys.argv[2:] or [str(file) for file in sorted(HERE.glob("cases_*.py"))]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "stand_in", *cases]
    raise SystemExit(subprocess.run(command, env=build(target)).returncode)
