"""Runs tests on the stand-in: python tests/fake_cuda/run.py FOLDER [pytest arguments]

Builds a small CUDA bundle in FOLDER, and starts pytest in a process that finds the stand-in of codegen/ptxsim/standin first. It
is told to run no kernel: what is tested here is loading, dispatch, order, streams, allocation, error paths and host cost.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tvm

from treadle.codegen import bundle, cuda_packed, lower, weights
from treadle.codegen.ptxsim import standin
from treadle.ir import build as program
from treadle.ir.graph import Graph, Init, Value
from treadle.schedules.target import Target

HERE = Path(__file__).parent
TARGET = Target.parse("cuda:sm_90a")
#: Kernels do not run, calls are logged, and what fills a GPU fits: memory costs nothing while nobody touches it.
FACTS = {"run": 0, "log": 1, "memory": 80}


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
    """The environment of a process that finds it before any other CUDA library."""
    found = standin.environment(**FACTS)
    hidden = {k: v for k, v in found.items() if k not in ("CUDA_VISIBLE_DEVICES", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER")}
    return hidden | {"PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}


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
