"""Many kernels compiled into few libraries: a library costs about a second whatever it holds, and nvcc's some more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tvm_ffi

from treadle import sessions
from treadle.catalog import attr_text
from treadle.codegen import cpu
from treadle.codegen import cuda as cuda_code
from treadle.codegen.cache import Cache, digest
from treadle.codegen.lower import Lowered
from treadle.codegen.ptxsim.hazards import HazardError
from treadle.errors import ToolchainError, TreadleError
from treadle.ir import Program
from treadle.runtime import cuda
from treadle.runtime.library import restated
from treadle.runtime.staged import default_stream, staged
from treadle.schedules.target import Target


def compile_many(
    lowered: Sequence[Lowered], target: Target, keep: ExitStack, progress: Callable[[str], None]
) -> dict[int, Callable[..., Any]]:
    """The compiled function of each kernel, by identity: it takes arrays of this machine's memory, whatever the target.

    A library holds a symbol once, and a Program's Points share one.
    """
    if target.kind == "ptx":
        sessions.stand_in(target.gpus[0].arch)  # before any library asks for CUDA
    libraries: list[dict[str, Lowered]] = []
    for k in lowered:
        home = next((lib for lib in libraries if k.symbol not in lib), None)
        if home is None:
            libraries.append(home := {})
        home[k.symbol] = k
    found: dict[int, Callable[..., Any]] = {}
    for i, library in enumerate(libraries):
        progress(f"compiling {len(library)} kernels, library {i + 1} of {len(libraries)}")
        module = tvm_ffi.load_module(str(_library(list(library.values()), target, keep)))
        for symbol, k in library.items():
            function = module.get_function(symbol)
            found[id(k)] = _machine(function, k) if target.kind == "ptx" else function
    return found


def _machine(function: tvm_ffi.Function, kernel: Lowered) -> Callable[..., None]:
    """A kernel's function, run by the PTX machine; what it finds is a HazardError, and the device is then made anew."""

    updated = [i for i, t in enumerate(kernel.program.args) if t.op.name in kernel.program.updated]

    def run(*tensors: tvm_ffi.Tensor) -> None:
        try:
            with staged(tensors, len(kernel.program.results), updated) as there, default_stream():
                function(*there)
        except Exception as wrong:
            if cuda.broken_by_kernel():
                cuda.reset()
                raise HazardError(str(wrong)) from wrong
            raise restated(wrong, kernel.symbol) from wrong

    return run


def described(program: Program, schedule: str, point: Any) -> str:
    """A kernel as error messages name it."""
    bound = attr_text(program.bound)
    return f"{program.name} {program.dtype} [{attr_text(program.attrs)}]{f' at {bound}' if bound else ''} by {schedule} {point}"


def _library(lowered: Sequence[Lowered], target: Target, keep: ExitStack) -> Path:
    key = digest(
        {
            "batch": [k.func.script(show_meta=True) for k in lowered],
            "target": [target.name, asdict(target.cpu)] if target.kind == "ptx" else asdict(target.cpu),
            "tools": cuda_code.key() if target.kind == "ptx" else cpu.key(),
        }
    )
    try:
        folder, _ = Cache.default().get_or_build(key, lambda into: _link(lowered, target, into / "batch.so"), keep)
    except TreadleError:
        raise
    except Exception as wrong:  # of TVM, which does not say whose fault it is: find the kernel by halving
        if len(lowered) == 1:
            (k,) = lowered
            what = described(k.program, k.schedule, k.point)
            raise ToolchainError(
                f"{what} does not compile", given=f"{type(wrong).__name__} {wrong}", expected="code"
            ) from wrong
        middle = len(lowered) // 2
        _library(lowered[:middle], target, keep)
        _library(lowered[middle:], target, keep)
        raise
    return folder / "batch.so"


def _link(lowered: Sequence[Lowered], target: Target, out: Path) -> None:
    if target.kind != "ptx":
        return cpu.link_library(lowered, "", target, out)
    (arch,) = (gpu.arch for gpu in target.gpus)
    # What is drawn at random may spill; that is judged elsewhere.
    files = cuda_code.link_library(lowered, None, target.code, out, waive={k.program.name for k in lowered})
    out.with_suffix(f".{arch}.ptx").write_text(files[f"sources/{arch}.ptx"])
    return None
