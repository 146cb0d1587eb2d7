"""The row schedule and the transposition: layer_norm, mean_pool, gates, merge and layout changes, at awkward sizes."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import tvm
import tvm_ffi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import tirx

from treadle.codegen.lower import lower
from treadle.ir import build
from treadle.schedules.cpu import rows, transpose
from treadle.schedules.space import Space
from treadle.schedules.target import Target

CPU = Target.parse("cpu")
DTYPES = ("float32", "float16", "bfloat16")
DIRECTIONS = ("t2b", "b2t", "l2r", "r2l")
SIZE = st.sampled_from((1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 32, 33, 64, 97, 257))
SMALL = st.sampled_from((1, 2, 3, 5, 8, 17))
run = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def lowered(program, module=rows, **knobs):
    space = Space(module, program, CPU)
    return space.lower(space.point(knobs))


@cache
def function(module, name, dtype, direction=None, **knobs):
    """A Program and its lowered function; made once, because compiling costs more than running all its cases."""
    program = build(name, dtype, {"direction": direction} if direction else {})
    return program, lowered(program, module, **knobs)


@pytest.mark.parametrize("dtype", DTYPES)
@run
@given(r=SMALL, c=SIZE, lanes=st.sampled_from((8, 16, 32)))
def test_layer_norm(held, dtype, r, c, lanes):
    program, func = function(rows, "norm.layer_norm", dtype, lanes=lanes)
    assert held(program, func, {"R": r, "C": c}).ok


@pytest.mark.parametrize("dtype", DTYPES)
@run
@given(n=SMALL, c=SMALL, p=SIZE, lanes=st.sampled_from((8, 16)))
def test_mean_pool(held, dtype, n, c, p, lanes):
    program, func = function(rows, "image.mean_pool", dtype, lanes=lanes)
    assert held(program, func, {"N": n, "C": c, "P": p}).ok


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("norm.layer_norm", {"R": 7, "C": 16}),
        ("norm.layer_norm", {"R": 7, "C": 17}),
        ("norm.layer_norm", {"R": 7, "C": 1}),
        ("image.mean_pool", {"N": 200, "C": 2, "P": 33}),
    ],
    ids=str,
)
def test_a_sum_of_one_step_in_known_sizes(held, name, sizes):
    program = build(name, dims=sizes)
    assert held(program, lowered(program), {}).ok


@pytest.mark.parametrize("target", ["cpu", "emulate:sm_90a"])
@pytest.mark.parametrize("c", [3, 40])
def test_rows_far_from_zero_keep_their_digits(target, c):
    """A mean of 1000 is off by up to 3e-5 in float32, and the rows deviate by 1: the rest of the mean has to come off too."""
    program = build("norm.layer_norm", dims={"C": c})
    func = lower(program, Target.parse(target)).func
    kernel = tvm.compile(func.with_attr("global_symbol", "kernel"), target={"kind": "llvm", "mcpu": "x86-64-v3"}).mod["kernel"]
    x = 1000 + torch.randn(64, c, generator=torch.Generator().manual_seed(c))
    y = torch.full_like(x, torch.nan)
    kernel(x, torch.ones(c), torch.zeros(c), y)
    truth = torch.nn.functional.layer_norm(x.double(), (c,), eps=1e-6)
    assert (y - truth).abs().max() <= 8 * torch.finfo(torch.float32).eps * truth.abs().max()


@pytest.mark.parametrize("name", ["scan.gspn_gates", "scan.gspn_gates_adjoint"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@run
@given(n=SMALL, g=SMALL, h=SMALL, w=SIZE)
def test_gspn_gates(held, name, dtype, direction, n, g, h, w):
    program, func = function(rows, name, dtype, direction)
    assert held(program, func, {"N": n, "G": g, "H": h, "W": w}).ok


@pytest.mark.parametrize("dtype", DTYPES)
@run
@given(n=SMALL, c=SMALL, p=SIZE)
def test_gspn_merge(held, dtype, n, c, p):
    program, func = function(rows, "scan.gspn_merge", dtype)
    assert held(program, func, {"N": n, "C": c, "P": p}).ok


@pytest.mark.parametrize("dtype", DTYPES)
@run
@given(n=SMALL, p=SIZE, c=SIZE, across=st.sampled_from((8, 64)), along=st.sampled_from((16, 64)))
def test_to_planes_is_exact(held, dtype, n, p, c, across, along):
    program, func = function(transpose, "image.to_planes", dtype, across=across, along=along)
    verdict = held(program, func, {"N": n, "P": p, "C": c})
    assert verdict.ok and verdict.error == 0


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("norm.layer_norm", {"R": 701, "C": 192}),
        ("image.mean_pool", {"N": 2, "C": 31, "P": 4099}),
        ("scan.gspn_gates", {"N": 2, "G": 3, "H": 61, "W": 67}),
        ("scan.gspn_merge", {"N": 2, "C": 31, "P": 1031}),
        ("image.to_planes", {"N": 2, "P": 701, "C": 193}),
    ],
)
@pytest.mark.parametrize("constant", [False, True], ids=["symbolic", "constant"])
def test_large_enough_to_run_on_all_cores(held, name, sizes, constant):
    program = build(name, "float32", dims=sizes if constant else None)
    assert held(program, lowered(program, transpose if transpose.applies(program) else rows), sizes).ok


def test_transposition_applies_to_layout_changes_alone():
    assert transpose.applies(build("image.to_planes"))
    for name in ("gemm.linear", "norm.layer_norm", "image.mean_pool", "scan.gspn_gates", "scan.gspn_merge", "scan.gspn"):
        assert not transpose.applies(build(name))
    assert Space(transpose, build("image.to_planes"), Target.parse("cpu:x86-64-v4")).refusals(transpose.Knobs(across=8))


def changed(func, kind, change):
    return tvm_ffi.structural_map(func, (kind, change))


def without_rest(loop):
    """Sums stop at the last whole vector."""
    if not isinstance(loop.extent, tirx.FloorMod):
        return loop
    return tirx.For(loop.loop_var, loop.min, tirx.const(0, "int64"), loop.kind, loop.body)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "sizes"), [("norm.layer_norm", {"R": 40, "C": 37}), ("image.mean_pool", {"N": 3, "C": 9, "P": 37})]
)
def test_dropped_tail_is_caught(held, dtype, name, sizes):
    program = build(name, dtype)
    assert not held(program, changed(lowered(program), tirx.For, without_rest), sizes).ok


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_unpadded_border_is_caught(held, dtype, direction):
    program = build("scan.gspn_gates", dtype, {"direction": direction})
    open_border = changed(lowered(program), tirx.Select, lambda s: s.true_value if _tests_a_border(s) else s)
    assert not held(program, open_border, {"N": 1, "G": 2, "H": 9, "W": 11}).ok


def _tests_a_border(select):
    return isinstance(select.condition, tirx.And)


def test_gates_of_the_other_axis_are_caught(held):
    program = build("scan.gspn_gates", attrs={"direction": "t2b"})
    other = build("scan.gspn_gates", attrs={"direction": "l2r"})
    assert not held(program, lowered(other), {"N": 1, "G": 2, "H": 9, "W": 11}).ok


def test_swapped_directions_are_caught(held):
    program = build("scan.gspn_merge")
    first, second, *rest = program.args
    assert not held(program, lowered(replace(program, args=(second, first, *rest))), {"N": 1, "C": 3, "P": 65}).ok


def test_untransposed_copy_is_caught(held):
    program = build("image.to_planes", dims={"N": 2, "P": 33, "C": 33})
    copied = changed(lowered(program, transpose), tirx.Shuffle, lambda s: s.vectors[0])
    assert not held(program, copied, {}).ok
