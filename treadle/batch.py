"""Many kernels compiled into few libraries: a library costs about a second whatever it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tvm_ffi

from treadle.catalog import attr_text
from treadle.codegen import cpu
from treadle.codegen.cache import Cache, digest
from treadle.codegen.lower import Lowered
from treadle.errors import ToolchainError, TreadleError
from treadle.ir import Program
from treadle.schedules.target import Target


def compile_many(
    lowered: Sequence[Lowered], target: Target, keep: ExitStack, progress: Callable[[str], None]
) -> dict[int, tvm_ffi.Function]:
    """The compiled function of each kernel, by identity. A library holds a symbol once, and a Program's Points share one."""
    libraries: list[dict[str, Lowered]] = []
    for k in lowered:
        home = next((lib for lib in libraries if k.symbol not in lib), None)
        if home is None:
            libraries.append(home := {})
        home[k.symbol] = k
    found: dict[int, tvm_ffi.Function] = {}
    for i, library in enumerate(libraries):
        progress(f"compiling {len(library)} kernels, library {i + 1} of {len(libraries)}")
        module = tvm_ffi.load_module(str(_library(list(library.values()), target, keep)))
        found |= {id(k): module.get_function(symbol) for symbol, k in library.items()}
    return found


def described(program: Program, schedule: str, point: Any) -> str:
    """A kernel as error messages name it."""
    bound = attr_text(program.bound)
    return f"{program.name} {program.dtype} [{attr_text(program.attrs)}]{f' at {bound}' if bound else ''} by {schedule} {point}"


def _library(lowered: Sequence[Lowered], target: Target, keep: ExitStack) -> Path:
    key = digest(
        {
            "batch": [k.func.script(show_meta=True) for k in lowered],
            "target": asdict(target.cpu),
            "tools": cpu.key(),
        }
    )
    try:
        folder, _ = Cache.default().get_or_build(
            key, lambda into: cpu.link_library(lowered, "", target, into / "batch.so"), keep
        )
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
