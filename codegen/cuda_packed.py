"""The second route to a CUDA library, kept as a fallback: TVM's own CUDA module, with machine code where it has source.

TVM writes a library's device code into a blob beside the entry points. Without a GPU driver that code is CUDA source, which
the target machine would have to compile. Here the source is compiled to a fat binary, and put in its place. Such a library
needs libtvm_runtime and libtvm_runtime_cuda where it runs: it shares with the first route the schedules and nothing else,
which is what makes it worth having when one of the two misbehaves.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import tvm
import tvm_ffi
from tvm import ir

from treadle.codegen import cpu, cuda, fatbin, nvcc
from treadle.codegen.lower import Lowered
from treadle.errors import ToolchainError
from treadle.schedules.target import Target

_BLOB = """
  .section .rodata
  .globl __tvm_ffi__library_bin
  .balign 16
__tvm_ffi__library_bin:
  .incbin "blob"
  .section .note.GNU-stack,"",@progbits
"""


def link_library(lowered: Sequence[Lowered], target: Target, out: Path) -> None:
    """Compile and link the kernels, entry points without a host function."""
    goal = tvm.target.Target({"kind": "cuda", "arch": target.gpus[0].arch}, host={"kind": "llvm", "mcpu": target.cpu.mcpu})
    module = tvm.compile(ir.IRModule({k.symbol: k.func for k in lowered}), target=goal).mod
    source = module.imports[0].inspect_source("cuda")
    with TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "kernels.cu").write_text(source)
        code = [f"-gencode=arch=compute_{a[3:]},code={a}" for a in (g.arch for g in target.gpus)]
        _run([nvcc.find().path, "-fatbin", "-std=c++17", "-O3", "-w", "-ccbin", cpu.compiler()[0], *code, "kernels.cu"], work)
        packed = tvm_ffi.get_global_func("runtime.ModulePackImportsToTensor")(module).numpy().tobytes()
        (work / "blob").write_bytes(replaced(packed, source.encode(), (work / "kernels.fatbin").read_bytes()))
        (work / "blob.s").write_text(_BLOB)
        module.write_to_file(str(work / "kernels.o"))
        _run([cpu.compiler()[0], *cuda.LINK_FLAGS, "kernels.o", "blob.s", "-o", "lib.so"], work)
        library = (work / "lib.so").read_bytes()
    fatbin.check(library, [g.arch for g in target.gpus], [])
    out.write_bytes(library)


def replaced(blob: bytes, source: bytes, code: bytes) -> bytes:
    """The blob with the CUDA module's format and code changed.

    Layout: bytes that follow, import tree, ..., "cuda", module; module: format, function table, code. Each string and the
    module have their length in front, and the CUDA module comes last.
    """
    head, tag, rest = blob[8:].partition(_text(b"cuda"))
    module, kind, code_before = rest[8:], _text(b"cuda"), _text(source)
    if not (tag and rest[:8] == _length(module) and module.startswith(kind) and module.endswith(code_before)):
        raise ToolchainError(
            "TVM packs its CUDA module in an unknown way", given=blob[:96].hex(), expected="the layout of TVM 0.27"
        )
    made = _text(b"fatbin") + module[len(kind) : -len(code_before)] + _text(code)
    body = head + tag + _text(made)
    return _length(body) + body


def _length(data: bytes) -> bytes:
    return struct.pack("<Q", len(data))


def _text(data: bytes) -> bytes:
    return _length(data) + data


def _run(command: Sequence[str], work: Path) -> None:
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, env=nvcc.environment())
    if done.returncode:
        last = (done.stdout + done.stderr).strip()[-2000:]
        raise ToolchainError("compiling a packed CUDA library failed", given=last, expected="no error")
