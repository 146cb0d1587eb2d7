"""The manifest of a compiled Graph: what its bundle offers, and by which tools it was made."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

from treadle.codegen import cpu, nvcc
from treadle.codegen.plan import ENTRY
from treadle.dtypes import dtype as find_dtype
from treadle.ir import dims as dm
from treadle.ir.graph import Graph, Value
from treadle.runtime import manifest as mf
from treadle.schedules.target import Target

#: CUDA kernels load and store 16 bytes at a time; CPU kernels take any element.
CUDA_ALIGN = 16


def library(target: Target) -> str:
    """Where the library of a target lies in a bundle: lib/cpu.so, lib/cuda-sm_80-sm_90a.so."""
    return f"lib/{target.name.replace(':', '-').replace(',', '-')}.so"


def manifest(graph: Graph, target: Target) -> mf.Manifest:
    """What a runtime must know of the Graph compiled for the target."""
    cuda = target.kind == "cuda"

    def spec(name: str, value: Value) -> mf.TensorSpec:
        align = CUDA_ALIGN if cuda else find_dtype(value.dtype).itemsize
        return mf.TensorSpec(name, tuple(dm.text(s) for s in value.shape), value.dtype, align)

    def specs(values: Mapping[str, Value]) -> tuple[mf.TensorSpec, ...]:
        return tuple(spec(n, v) for n, v in values.items())

    producer = {n: version(n) for n in ("treadle", "apache-tvm", "apache-tvm-ffi")} | {"c++": cpu.compiler()[1]}
    if cuda:
        producer["nvcc"] = nvcc.find().version
    # The host side of a CUDA library is plain C++ for any x86-64.
    features = () if cuda else target.cpu.features
    return mf.Manifest(
        name=graph.name,
        producer=producer,
        dims={n: mf.Dim(d.lo, d.hi, d.step, d.one_of) for n, d in graph.dims.items()},
        entries=(mf.Entry(ENTRY, specs(graph.inputs), specs(graph.outputs), graph.updates),),
        weights=specs(graph.weights),
        libraries=(mf.Library(target.name, library(target), features),),
    )
