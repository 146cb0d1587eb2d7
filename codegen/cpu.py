"""CPU libraries: TIR through LLVM to one object, linked with the generated host code, the thread pool and helpers.

The library needs libtvm_ffi and nothing else of TVM. Its bytes are a function of its sources: the compiler sees relative
paths in an empty folder, no build id, no symbols but the exported ones.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import tvm
import tvm_ffi
from tvm.ir import IRModule

from treadle.codegen.cxx import compiler
from treadle.codegen.lower import Lowered
from treadle.errors import ToolchainError
from treadle.schedules.emit import SIZED
from treadle.schedules.target import Target

_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
#: A number that does not depend on the machine, so that the library's bytes do not either.
_OBJECTS = 4
_SHRINK = "s_tir.CompactBufferAllocation"
_LINK = ("-shared", "-s", "-pthread", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-rpath,$ORIGIN")


def key() -> dict[str, object]:
    """What a library depends on beside its own sources."""
    return {"tvm": tvm.__version__, "c++": compiler()[1], "flags": [_FLAGS, _LINK], "support": digests(support_sources())}


def support_sources() -> dict[str, bytes]:
    """The C++ files that are part of every CPU library: thread pool, workspace, helpers of kernels, host header."""
    folder = resources.files("treadle.runtime") / "cpp"
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir(), key=lambda f: f.name) if f.name.endswith((".cc", ".h"))}


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """The files as a cache key holds them."""
    return {name: hashlib.sha256(text).hexdigest() for name, text in files.items()}


def link_library(lowered: Sequence[Lowered], host: str, target: Target, out: Path) -> None:
    """Compile and link one library; `host` is the generated translation unit."""
    work = out.parent / "work"
    work.mkdir()
    objects = _compile_objects(lowered, target, work)
    for name, text in support_sources().items():
        (work / name).write_bytes(text)
    (work / "host.cc").write_text(host)
    units = sorted(p.name for p in work.glob("*.cc"))
    include = tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path()
    ffi = Path(tvm_ffi.libinfo.find_libtvm_ffi())
    command = [
        compiler()[0], *_FLAGS, *(f"-isystem{i}" for i in include), *units, *objects, *_LINK, f"-L{ffi.parent}", "-ltvm_ffi", "-o", "lib.so",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise ToolchainError(
            "linking a CPU library failed", given=done.stderr.strip()[-2000:], expected="no error", hint=compiler()[1]
        )
    (work / "lib.so").rename(out)
    shutil.rmtree(work)


def _compile_objects(lowered: Sequence[Lowered], target: Target, work: Path) -> list[str]:
    """The kernels as a few objects, compiled side by side: LLVM runs outside Python's lock."""
    # Shrinking buffers to what is used of them takes TVM ten times as long as everything else, over a scan's many bounds.
    sized = [k for k in lowered if k.func.attrs.get(SIZED)]
    others = [k for k in lowered if not k.func.attrs.get(SIZED)]
    parts = [(p, skipped) for ks, skipped in ((sized, [_SHRINK]), (others, [])) for n in range(_OBJECTS) if (p := ks[n::_OBJECTS])]

    def compile_one(number: int) -> str:
        kernels, skipped = parts[number]
        name = f"kernels{number}.o"
        module = IRModule({k.symbol: k.func for k in kernels})
        with tvm.transform.PassContext(disabled_pass=skipped):
            code = tvm.compile(module, target={"kind": "llvm", "mcpu": target.cpu.mcpu}).mod
        code.write_to_file(str(work / name))
        return name

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(compile_one, range(len(parts))))
