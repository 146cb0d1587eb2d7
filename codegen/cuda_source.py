"""Lowered functions -> CUDA C++, through TVM's `cuda_host` target.

TVM writes kernels and their tvm-ffi entry points for one translation unit. They are kept apart here: `kernels.cu` goes
through nvcc, `entries.cc`, which holds the entry points and needs only each kernel's launch stub, through the C++ compiler.
Of the 4.5 s that a small unit costs, 3.5 s are tvm-ffi's headers passing through nvcc's front ends, twice per architecture;
apart, and side by side, the two take 1 s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm_ffi.structural import WalkResult

from treadle.codegen.lower import Lowered
from treadle.errors import ToolchainError
from treadle.schedules.scratch import GIVE_BACK, TAKE
from treadle.schedules.target import Target

_DECLARED = re.compile(
    r'^extern "C" __global__ void (?P<attrs>(?:__\w+__\([^()]*\) *)*)(?P<name>\w+)\((?P<params>[^;{}]*)\);$', re.MULTILINE
)
_BOUNDS = re.compile(r"__launch_bounds__\((\d+)")
#: What nvcc knows unasked and the C++ compiler does not: float16, which TVM's checks name (bfloat16 it writes as uint16_t);
#: and that attributes are set on the stub of a kernel, whatever its type.
_PRELUDE = """#include <cuda.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <cstdint>

template <typename Kernel>
static cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
"""
#: Device memory of one call, on its stream: what a schedule keeps between its kernels and no Program knows of.
_SCRATCH = f"""#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/c_env_api.h>

static cudaStream_t treadle_stream() {{
  int device = 0;
  cudaGetDevice(&device);
  return static_cast<cudaStream_t>(TVMFFIEnvGetStream(kDLCUDA, device));
}}
extern "C" float* {TAKE}(int64_t bytes) {{
  void* memory = nullptr;
  const cudaError_t error = bytes > 0 ? cudaMallocAsync(&memory, bytes, treadle_stream()) : cudaSuccess;
  if (error != cudaSuccess) {{
    TVM_FFI_THROW(RuntimeError) << "scratch memory of " << bytes << " bytes: " << cudaGetErrorString(error);
  }}
  return static_cast<float*>(memory);
}}
extern "C" int32_t {GIVE_BACK}(float* memory) {{ return memory ? cudaFreeAsync(memory, treadle_stream()) : 0; }}
"""
_LAUNCH = re.compile(r"dynamicSmemBytes = (\w+);.*?tvm_cuda_host_launch\(::(\w+),", re.DOTALL)


@dataclass(frozen=True)
class Kernel:
    """One `__global__` function: whose it is, and how it is launched. None: known only when it is."""

    name: str
    of: Lowered
    threads: int | None
    dynamic_shared: int | None


@dataclass(frozen=True)
class Source:
    """The two files, and the kernels in them in order of appearance."""

    device: str
    entries: str
    kernels: tuple[Kernel, ...]


def source(lowered: Sequence[Lowered], target: Target) -> Source:
    """One source for all architectures of a target: what differs between them, nvcc decides."""
    for k in lowered:
        _check_bound(k)
    module = _build(lowered, target)
    if len(module.imports) != 1:
        raise ToolchainError("TVM made no CUDA code", given=[k.symbol for k in lowered], expected="one device module")
    device, host = module.imports[0].inspect_source("cuda"), module.inspect_source()
    declared = list(_DECLARED.finditer(device))
    dynamic = {m[2]: _number(host[: m.start()], m[1]) for m in _LAUNCH.finditer(host)}
    kernels = []
    for d in declared:
        owner = next(k for k in lowered if d["name"].startswith(f"{k.symbol}_kernel"))
        bounds = _BOUNDS.search(d["attrs"])
        kernels.append(Kernel(d["name"], owner, int(bounds[1]) if bounds else None, dynamic.get(d["name"])))
    stubs = [f'extern "C" void {d["name"]}({_stub_params(d["params"])});' for d in declared]
    prelude = [_PRELUDE, *([_SCRATCH] if TAKE in host else [])]
    entries = "\n".join([*prelude, *stubs, "", host])
    return Source(device, entries, tuple(kernels))


def _build(lowered: Sequence[Lowered], target: Target) -> tvm_ffi.Module:
    # TVM generates for the least architecture; schedules have seen to it that all have the instructions they use.
    goal = tvm.target.Target({"kind": "cuda", "arch": target.gpus[0].arch}, host="cuda_host")
    try:
        return tvm.compile(ir.IRModule({k.symbol: k.func for k in lowered}), target=goal).mod
    except Exception as wrong:  # TVM raises whatever its passes raise; what matters is whose function it was
        if len(lowered) > 1:
            for k in lowered:
                _build([k], target)
        owners = ", ".join(sorted({_title(k) for k in lowered}))
        reason = next((line for line in reversed(str(wrong).splitlines()) if line.strip()), repr(wrong))
        raise ToolchainError(
            f"{owners}: TVM cannot make CUDA code of it", given=reason.strip()[:500], expected=f"code for {target.name}"
        ) from wrong


def _check_bound(k: Lowered) -> None:
    """Refuse stores outside every thread loop. For `cuda_host` TVM would write device memory from the host without a word."""
    if not k.func.attrs.get("s_tir"):
        return  # TIRx opens its thread scopes in its own ways
    stores, blocks = _outside_threads(k.func.body)
    if not stores:
        return
    named = [b.name_hint for b in blocks if b.name_hint != "root" and _outside_threads(b)[0]]
    raise ToolchainError(
        f"{_title(k)}: block {named[-1] if named else 'root'} writes {stores[0].buffer.name} outside every thread loop",
        given="loops that would run on the host", expected="loops bound to blockIdx and threadIdx",
        hint="Bind a loop around the block in the schedule, or compute the block inside one that is bound.",
    )  # fmt: skip


def _outside_threads(node: ir.Node) -> tuple[list[tirx.BufferStore], list[s_tir.SBlock]]:
    """The stores and blocks that no thread-bound loop encloses."""
    stores: list[tirx.BufferStore] = []
    blocks: list[s_tir.SBlock] = []

    def enter(scope: tirx.For | tirx.AttrStmt) -> WalkResult | None:
        thread = scope.kind == tirx.ForKind.THREAD_BINDING if isinstance(scope, tirx.For) else scope.attr_key == "thread_extent"
        return WalkResult.SKIP if thread else None

    look = (((tirx.For, tirx.AttrStmt), enter), (tirx.BufferStore, stores.append), (s_tir.SBlock, blocks.append))
    tvm_ffi.structural_walk(node, look, order="pre")
    return stores, blocks


def _stub_params(params: str) -> str:
    """A kernel's parameters as its launcher sees them: pointers are addresses, whatever they point to."""
    kept = (p.replace("__grid_constant__", "").strip() for p in params.split(","))
    return ", ".join("void*" if "*" in p else p for p in kept)


def _number(before: str, size: str) -> int | None:
    """A launch's dynamic shared memory: a number, or the variable last set before it."""
    if size.isdigit():
        return int(size)
    values = re.findall(rf"auto {size} = (?:\(\w+\))?(.+);", before)
    return int(values[-1]) if values and values[-1].isdigit() else None


def _title(k: Lowered) -> str:
    return f"{k.program.name}, schedule {k.schedule}"
