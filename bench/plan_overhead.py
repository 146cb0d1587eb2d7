"""What the generated plan costs on the host: a graph of 100 tiny kernels, called from C++ and from Python."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import tvm_ffi

from treadle.api import compile_graph
from treadle.bench.native import compiled
from treadle.bench.report import Column, Report
from treadle.bench.timing import interleave, method
from treadle.codegen.cpu import support_sources
from treadle.errors import TreadleError
from treadle.ir.graph import Graph
from treadle.runtime.session import load

NODES, CHANNELS, POSITIONS = 100, 4, 2
CALLS = 20_000
ROUNDS = 7

LAYOUT = (
    Column("called from", "caller"),
    Column(">us per call", "us_per_call", "{:.2f}".format),
    Column(">ns per node", "ns_per_node", "{:.0f}".format),
)


def tiny_graph() -> Graph:
    """x transposed a hundred times: every kernel moves eight floats."""
    graph = Graph("plan-overhead")
    value = graph.input("x", (1, POSITIONS, CHANNELS), "float32")
    for i in range(NODES):
        value = graph.view(graph.call(f"n{i}", "image.to_planes", value), (1, POSITIONS, CHANNELS))
    graph.output("y", value)
    return graph


def measure(target: str, progress: Callable[[str], None]) -> Report:
    """Time the whole call, and the same kernels called directly: the difference is what the plan costs."""
    graph = tiny_graph()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as keep:
        progress("compiling the graph")
        bundle = Path(folder) / "plan"
        compile_graph(graph, target, bundle, progress=progress)
        session = load(bundle)
        progress("timing")
        library = bundle / session.bundle.library("cpu").file
        whole, kernels = _from_cpp(library, graph.nodes[0].program.symbol, keep)
        x = np.zeros((1, POSITIONS, CHANNELS), np.float32)
        y = np.empty_like(x)
        python = interleave({"python": lambda: session.run(x=x, out={"y": y})}, ROUNDS)["python"].median
    callers = {
        "C++, the generated plan": whole,
        "C++, its kernels alone": kernels,
        "C++, the plan itself": whole - kernels,
        "Python": python,
    }
    rows = [{"caller": c, "us_per_call": s * 1e6, "ns_per_node": s / NODES * 1e9} for c, s in callers.items()]
    return Report(
        "plan",
        f"a plan of {NODES} tiny kernels on {target}",
        LAYOUT,
        rows,
        f"C++: median of {ROUNDS} interleaved rounds of {CALLS} calls; Python: {method(ROUNDS)}",
        {"nodes": NODES},
    )


def _from_cpp(library: Path, kernel: str, keep: ExitStack) -> tuple[float, float]:
    """Seconds per call of the plan, and of its kernels alone, measured by a C++ program that loads the library."""
    ffi = Path(tvm_ffi.libinfo.find_libtvm_ffi()).parent
    include = (tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path())
    flags = [*(f"-isystem{i}" for i in include), "-Wl,--no-as-needed", f"-L{ffi}", "-ltvm_ffi", "-ldl", f"-Wl,-rpath,{ffi}"]
    headers = {name: text for name, text in support_sources().items() if name.endswith(".h")}
    driver = compiled("plan_driver.cc", flags, keep, headers)
    numbers = (NODES, POSITIONS, CHANNELS, CALLS, ROUNDS)
    done = subprocess.run([driver, library, kernel, *map(str, numbers)], capture_output=True, text=True)
    if done.returncode:
        raise TreadleError("the C++ driver of the plan failed", given=done.stderr.strip(), expected="its timings")
    found = json.loads(done.stdout)
    return found["plan"], found["kernels"]
