"""CUDA libraries: generated CUDA C++ through nvcc, entry points and host code through the C++ compiler, side by side.

The library holds machine code for every architecture of its target and needs libtvm_ffi and libcudart, nothing else. Its
bytes are a function of its sources and of the compilers' versions: relative names in an empty folder, no build id, no
symbols but the exported ones, and as many pieces per unit as are fixed here, not as the machine has processors.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import tvm
import tvm_ffi

from treadle.codegen import cpu, fatbin, nvcc, ptxas, report
from treadle.codegen.cuda_source import Kernel, Source, source
from treadle.codegen.lower import Lowered
from treadle.errors import ArchError, ToolchainError
from treadle.schedules.target import Target

#: Fast math stays off: a Program that wants it says so in its own expressions. nvcc optimises a unit in four pieces.
NVCC_FLAGS = ("-std=c++17", "-O3", "--split-compile=4", "-w", "--keep", "-Xptxas=-v", "-Xcompiler=-fPIC,-fvisibility=hidden")
CXX_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden")
LINK_FLAGS = ("-shared", "-s", "-pthread", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-rpath,$ORIGIN")
_UNIT = "kernels"


def key() -> dict[str, object]:
    """What a library depends on beside its own sources: those headers too that its host code includes."""
    tools = {"tvm": tvm.__version__, "nvcc": nvcc.find().label, "c++": cpu.compiler()[1]}
    return tools | {"flags": [NVCC_FLAGS, CXX_FLAGS, LINK_FLAGS], "support": cpu.digests(support_headers())}


def support_headers() -> dict[str, bytes]:
    """The C++ headers that generated host code includes."""
    return {name: text for name, text in cpu.support_sources().items() if name.endswith(".h")}


def link_library(
    lowered: Sequence[Lowered], host: str | None, target: Target, out: Path, support: Mapping[str, bytes] | None = None,
    waive: Collection[str] = (),
) -> dict[str, str]:  # fmt: skip
    """Compile and link one library, and return the files that describe it, by their names in a bundle.

    `host` is the generated host translation unit; without it the library offers its kernels alone. `support` holds further
    files: headers, and `.cc` files that become part of the library; `waive` names Programs whose kernels may spill.
    """
    made = source(lowered, target)
    work = out.parent / "work"
    work.mkdir()
    units = {"entries.cc": made.entries.encode(), **(support or {})}
    if host is not None:
        units["host.cc"] = host.encode()
    for name, text in {f"{_UNIT}.cu": made.device.encode(), **units}.items():
        (work / name).write_bytes(text)
    # Every unit is a process of its own; threads only wait for them.
    with ThreadPoolExecutor() as pool:
        device = pool.submit(_device, made, target, work)
        objects = list(pool.map(lambda name: _host(name, work), sorted(n for n in units if n.endswith(".cc"))))
        log = device.result()
    usage = ptxas.parse(log)
    ptxas.refuse_spills(usage, made.kernels, waive)
    _link([f"{_UNIT}.o", *objects], work)
    fatbin.check((work / "lib.so").read_bytes(), [g.arch for g in target.gpus], [k.name for k in made.kernels])
    files = {"sources/kernels.cu": made.device, "sources/entries.cc": made.entries}
    for gpu in target.gpus:
        files[f"sources/{gpu.arch}.ptx"] = _ptx(gpu.arch, work).read_text()
        files[f"reports/{gpu.arch}.json"] = report.text(gpu, made.kernels, usage[gpu.arch], waive)
    (work / "lib.so").rename(out)
    shutil.rmtree(work)
    return files


@dataclass(frozen=True)
class Assembled:
    """The device side of a library: its kernels and their source, and per architecture what each takes and the PTX of all."""

    kernels: tuple[Kernel, ...]
    source: str
    usage: Mapping[str, Mapping[str, ptxas.Usage]]
    ptx: Mapping[str, str]

    def entry(self, arch: str, kernel: str) -> str:
        """The PTX of one kernel."""
        return self.ptx[arch].partition(f".entry {kernel}(")[2].partition(".visible .entry")[0]


def assemble(lowered: Sequence[Lowered], target: Target) -> Assembled:
    """Compile the device side alone: what a check of schedules wants to know."""
    made = source(lowered, target)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / f"{_UNIT}.cu").write_text(made.device)
        usage = ptxas.parse(_device(made, target, work))
        return Assembled(made.kernels, made.device, usage, {g.arch: _ptx(g.arch, work).read_text() for g in target.gpus})


def _device(made: Source, target: Target, work: Path) -> str:
    """kernels.cu -> kernels.o, one image per architecture; returns what the assembler said."""
    code = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in (g.arch.removeprefix("sm_") for g in target.gpus)]
    command = [nvcc.find().path, *NVCC_FLAGS, "-ccbin", cpu.compiler()[0], *code, f"--threads={len(code)}", "-c", f"{_UNIT}.cu"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, env=nvcc.environment())
    if done.returncode:
        _refuse(made, target, work, done.stdout + done.stderr)
    return done.stdout + done.stderr


def _host(name: str, work: Path) -> str:
    """One C++ file -> its object. Generated entry points are not ours to warn about; host code is."""
    # A header's messages carry its own name: cut it down to what lies below the include folder.
    folders = {"tvm_ffi": tvm_ffi.libinfo.find_include_path(), "dlpack": tvm_ffi.libinfo.find_dlpack_include_path()}
    include = [f"-isystem{f}" for f in (*folders.values(), nvcc.find().include)]
    include += [f"-fmacro-prefix-map={folder}={short}" for short, folder in folders.items()]
    warn = ["-w"] if name == "entries.cc" else ["-Wall", "-Wextra", "-Werror"]
    made = Path(name).with_suffix(".o").name
    _run([cpu.compiler()[0], *CXX_FLAGS, *warn, *include, "-c", name, "-o", made], work)
    return made


def _link(objects: Sequence[str], work: Path) -> None:
    # The wheels have no libcudart.so to link by -l; by its path the library still records the name libcudart.so.13 alone.
    ffi = Path(tvm_ffi.libinfo.find_libtvm_ffi())
    libraries = [f"-L{ffi.parent}", "-ltvm_ffi", str(nvcc.find().cudart)]
    _run([cpu.compiler()[0], *LINK_FLAGS, *objects, *libraries, "-o", "lib.so"], work)


def _run(command: Sequence[str], work: Path) -> None:
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise ToolchainError(
            "the host side of a CUDA library does not compile", given=done.stderr.strip()[-2000:], expected="no error",
            hint=cpu.compiler()[1],
        )  # fmt: skip


def _ptx(arch: str, work: Path) -> Path:
    """nvcc names what it keeps after the architecture only where there are several."""
    several = work / f"{_UNIT}.{arch.replace('sm_', 'compute_')}.ptx"
    return several if several.exists() else work / f"{_UNIT}.ptx"


def _refuse(made: Source, target: Target, work: Path, output: str) -> NoReturn:
    """Restate nvcc's refusal: which Program, and where the source is kept for a look."""
    kept = Path(tempfile.mkdtemp(prefix="treadle-failed-")) / f"{_UNIT}.cu"
    shutil.copy(work / kept.name, kept)
    line = re.search(rf"{_UNIT}\.cu\((\d+)\)", output)
    # The last kernel that begins above the line refused; the assembler instead quotes the function it is in.
    above = "\n".join(made.device.splitlines()[: int(line[1])]) if line else ""
    begun = [k for k in made.kernels if re.search(rf"\b{k.name}\([^;]*\) {{", above) or f"'{k.name}'" in output]
    owner = f"{begun[-1].of.program.name}, schedule {begun[-1].of.schedule}: " if begun else ""
    last = "\n".join(output.strip().splitlines()[-8:])
    lacking = re.search(r"(requires|not supported on) \.target '?(sm_\w+)", output)
    hint = f"The source is kept in {kept}; compiler: {nvcc.find().label}"
    if lacking:
        need = lacking[2] + (" or higher" if lacking[1] == "requires" else "'s successors")
        raise ArchError(f"{owner}an instruction that {target.name} lacks", given=last, expected=need, hint=hint)
    raise ToolchainError(f"{owner}nvcc refuses the generated source", given=last, expected="no error", hint=hint)
