"""The CUDA schedules of scans as machine code for sm_90a: no spills, no barrier but ours, nothing read twice."""

import re

import pytest

from treadle.codegen import cuda, nvcc
from treadle.codegen import lower as low
from treadle.errors import ToolchainError
from treadle.ir import build
from treadle.schedules.scan import lines, registers, turned
from treadle.schedules.target import Target

CUDA = Target.parse("cuda:sm_90a")
DIRECTIONS = {"line": ("t2b", "b2t"), "tile": ("l2r", "r2l")}
DTYPES = ("float32", "float16", "bfloat16")
#: What the kernels without a budget of their own (strided, sums over channels) may take.
SUMS_REGISTERS = 96


def compile_and_hold(name, schedule, direction, dtype):
    """The default point with symbolic sizes, compiled: what the assembler reports, and what the PTX is made of."""
    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(str(missing))
    program = build(name, dtype, {"direction": direction})
    space = next(s for s in low.spaces(program, CUDA) if s.name == schedule)
    point = space.point()
    made = cuda.assemble([low.lower(program, CUDA, space)], CUDA)
    usage = made.usage["sm_90a"]
    ptx = [made.entry("sm_90a", k.name) for k in made.kernels]
    budget = (lines if schedule == "line" else turned).budget(program.scan, point)
    for kernel in made.kernels:
        used = usage[kernel.name]
        assert not used.spills, (kernel.name, used)
        assert used.registers <= max(budget.registers, SUMS_REGISTERS), (kernel.name, used)
    # No barrier but ours: one a step (loops are of two steps), and two around a tile; sums over channels have none.
    bodies = re.split(r'extern "C" __global__ void [^;{]*\) \{', made.source)[1:]
    barriers = {b.count("__syncthreads()") for b in bodies}
    wide = next(p for p in ptx if re.search(r"ld\.global\S*\.v", p))
    if schedule == "line":
        assert barriers <= {2, 0}, barriers
        assert len(re.findall(r"bar\.sync|barrier\.sync", wide)) == 2
        # Each tensor once before the loop and once a step; each result once a step: nothing is read twice.
        assert len(re.findall(r"ld\.global\S*\.v\d", wide)) == 3 * len(registers.held(program.scan))
        assert len(re.findall(r"st\.global\S*\.v\d", wide)) == 2 * len(program.scan.outputs)
    else:
        assert barriers <= {4, 3, 2, 0}, barriers  # tiles; those whose results take no input's place; strided; sums
        assert re.search(r"st\.global\S*\.v4", wide)
    if dtype == "float32" or name == "scan.gspn":
        assert re.search(r"ld\.global\S*\.v4\.\w32", wide)
    assert not any(re.search(r"(div|rem)\.[su]64", p) for p in ptx)


@pytest.mark.parametrize(
    ("name", "schedule", "direction", "dtype"),
    [
        ("scan.gspn", "line", "t2b", "float32"),
        ("scan.gspn", "tile", "r2l", "float16"),
        ("scan.gspn_adjoint", "line", "b2t", "bfloat16"),
        ("scan.gspn_adjoint", "tile", "l2r", "float32"),
    ],
)
def test_defaults_compile_for_hopper_without_a_spill(name, schedule, direction, dtype):
    compile_and_hold(name, schedule, direction, dtype)


@pytest.mark.long  # twenty-four libraries through nvcc
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("schedule", DIRECTIONS)
@pytest.mark.parametrize("name", ["scan.gspn", "scan.gspn_adjoint"])
@pytest.mark.parametrize("which", [0, 1])
def test_all_defaults_compile_for_hopper_without_a_spill(name, schedule, which, dtype):
    compile_and_hold(name, schedule, DIRECTIONS[schedule][which], dtype)
