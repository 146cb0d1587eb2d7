"""Coverage: it counts, it names the first line of what is unknown, and of our own kernels nothing is."""

import subprocess

import pytest

from treadle.codegen import nvcc
from treadle.codegen.cuda_source import source
from treadle.codegen.lower import lower, spaces
from treadle.codegen.ptxsim import bind, trial
from treadle.codegen.ptxsim.coverage import Opcode, coverage
from treadle.codegen.ptxsim.parse import parse
from treadle.errors import ToolchainError
from treadle.ir import build, definitions
from treadle.schedules.target import Target

from . import kernels
from .texts import HEAD

CUDA = Target.parse("cuda:sm_90a")
TEXT = (
    HEAD
    + """\
.extern .func away();
.func near() { ret; }
.entry k() { .reg .b32 %r<3>;
  add.u32 %r1, %r1, 1;
  add.u32 %r1, %r1, 2;
  sparkle.u32 %r1;
  add.u32 %r1, %r1, 3; sparkle.u32 %r2;
  sparkle.u64 %r1;
  call near;
  ret;
}
"""
)


def test_opcodes_are_counted():
    made = coverage(parse(TEXT, "t"), bind.known)
    assert made.opcodes == (
        Opcode("add.u32", 3), Opcode("call", 1), Opcode("ret", 2), Opcode("sparkle.u32", 2, 9), Opcode("sparkle.u64", 1, 11),
    )  # fmt: skip
    assert [o.name for o in made.missing] == ["sparkle.u32", "sparkle.u64"]


def test_an_opcode_is_covered_only_if_every_use_is():
    made = coverage(parse(TEXT, "t"), lambda i: i.opcode == "ret" or (i.name == "add.u32" and i.line < 10))
    assert {o.name: o.line for o in made.opcodes if o.name == "add.u32"} == {"add.u32": 10}


@pytest.mark.parametrize("call", ["call away;", "P: .callprototype _ (); call %r1, P;"])
def test_calls_that_cannot_be_inlined_are_not_covered(call):
    made = coverage(parse(TEXT.replace("call near;", call), "t"), bind.known)
    assert next(o for o in made.opcodes if o.name == "call").line == 12


@pytest.mark.parametrize("name", kernels.NAMES)
def test_our_test_kernels_are_covered(name):
    module = kernels.module(name)
    assert not coverage(module, trial.known(module)).missing


def _scheduled(programs):
    """The schedules of those Programs that have any on CUDA; which do not, `treadle list` says."""
    for program in programs:
        try:
            yield from spaces(program, CUDA)
        except ToolchainError as none:
            assert none.message == f"{program.name} has no CUDA schedule yet"


def _covered(programs, folder):
    """Every schedule of these Programs at its default Point, all in one unit. Without machine code nvcc is quick."""
    try:
        compiler = nvcc.find()
    except ToolchainError as missing:
        pytest.skip(str(missing))
    lowered = [lower(s.program, CUDA, s) for s in _scheduled(programs)]
    if not lowered:
        pytest.skip(f"{programs[0].name} has no CUDA schedule yet")
    made = source(lowered, CUDA)
    (folder / "kernels.cu").write_text(made.device)
    # Into a file: nvcc has its assembler read the PTX back, and from a pipe that would never end.
    command = [compiler.path, "-std=c++17", "-O3", "-w", "-arch=sm_90a", "-ptx", "kernels.cu", "-o", "kernels.ptx"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, env=nvcc.environment())
    module = parse((folder / "kernels.ptx").read_text(), "the kernels")
    assert {k.name for k in made.kernels} <= set(module.functions)
    assert not coverage(module, trial.known(module)).missing
    return len(made.kernels)


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.long)]
)  # as bfloat16, all but names
def test_every_kernel_of_the_project_is_covered(dtype, tmp_path):
    assert _covered([build(name, dtype) for name, d in definitions().items() if dtype in d.dtypes], tmp_path) > 20


def test_every_dtype_is_asked():
    """The three of the test above are all there are."""
    assert {t for d in definitions().values() for t in d.dtypes} == {"float32", "float16", "bfloat16"}


@pytest.mark.long  # every choice of every attribute: dozens of kernels each
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", sorted(definitions()))
def test_every_choice_of_attributes_is_covered(name, dtype, tmp_path):
    definition = definitions()[name]
    if dtype not in definition.dtypes:
        pytest.skip(f"{name} has no {dtype}")
    _covered(
        [build(name, dtype, {attr: c}) for attr, kind in definition.attrs.items() for c in kind.choices]
        or [build(name, dtype)],
        tmp_path,
    )
