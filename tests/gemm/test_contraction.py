"""The packed contraction schedule: every layout, dtype and legal point, at sizes that fit no block."""

import itertools
from dataclasses import replace
from functools import cache

import pytest
import torch
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.ir import build
from treadle.schedules.cpu import contraction
from treadle.schedules.space import Space
from treadle.schedules.target import Target

CPU = Target.parse("cpu")
DTYPES = ("float32", "float16", "bfloat16")
LAYOUTS = list(itertools.product(("rows", "planes"), repeat=2))
SIZE = st.sampled_from((1, 2, 5, 7, 8, 13, 16, 17, 31, 33, 64, 97))
DEEP = st.sampled_from((1, 3, 8, 16, 24, 31, 33, 100, 257, 300))


def lowered(program, **knobs):
    space = Space(contraction, program, CPU)
    return space.lower(space.point(knobs))


@cache
def kernel(name, dtype, attrs, dims, knobs):
    """A Program and its lowered function; made once, because compiling costs more than running all its cases."""
    program = build(name, dtype, dict(attrs), dict(dims))
    return program, lowered(program, **dict(knobs))


def function(name, dtype, attrs, dims, knobs):
    return kernel(name, dtype, *(tuple(d.items()) for d in (attrs, dims, knobs)))


POINTS = ({}, {"mr": 4, "nr": 3, "kc": 32, "mc": 48, "nc": 64}, {"mr": 2, "nr": 1, "kc": 64, "mc": 96, "nc": 128})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layouts", LAYOUTS, ids="-".join)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 3), p=SIZE, k=DEEP, m=SIZE)
def test_linear_in_symbolic_sizes(held, dtype, layouts, n, p, k, m):
    # One point for each pair: every layout, dtype and point occurs, and a compilation takes a second.
    point = POINTS[(LAYOUTS.index(layouts) + DTYPES.index(dtype)) % len(POINTS)]
    attrs = {"x_layout": layouts[0], "y_layout": layouts[1], "activation": "gelu_tanh", "residual": True}
    program, func = function("gemm.linear", dtype, attrs, {}, point)
    assert held(program, func, {"N": n, "P": p, "K": k, "M": m}).ok


@pytest.mark.parametrize("point", POINTS, ids=str)
@pytest.mark.parametrize(("k", "m"), [(24, 24), (1, 1), (300, 40), (97, 13)])
def test_linear_in_constant_sizes(held, k, m, point):
    for attrs in ({"bias": False}, {"x_layout": "planes", "y_layout": "planes", "activation": "gelu_tanh"}):
        program, func = function("gemm.linear", "float32", attrs, {"K": k, "M": m}, point)
        for n, p in ((1, 1), (2, 30), (1, 401)):
            assert held(program, func, {"N": n, "P": p}).ok


@pytest.mark.parametrize(("dtype", "patch"), list(zip(DTYPES, (14, 1, 3), strict=True)))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 3), c=st.integers(1, 3), h=st.integers(1, 5), w=st.integers(1, 5), m=SIZE)
def test_patch_embed_gathers_while_packing(held, dtype, patch, n, c, h, w, m):
    program, func = function("image.patch_embed", dtype, {"patch": patch}, {}, {})
    assert held(program, func, {"N": n, "C": c, "H": h, "W": w, "M": m}).ok


@pytest.mark.parametrize("k", [64, 512, 4096])
def test_sums_stay_short(k):
    """Sums of positive terms: a chain of 64 is off by 6 half units in the last place, of 4096 in blocks of 64 by 6.5; ours by 3."""
    _, func = function("gemm.linear", "float32", {"bias": False}, {}, {})
    kernel = tvm.compile(func.with_attr("global_symbol", "kernel"), target={"kind": "llvm", "mcpu": "x86-64-v3"}).mod["kernel"]
    random = torch.Generator().manual_seed(k)
    x, weight = torch.rand(1, 40, k, generator=random), torch.rand(24, k, generator=random)
    y = torch.full((1, 40, 24), torch.nan)
    kernel(x, weight, y)
    truth = torch.nn.functional.linear(x.double(), weight.double())
    assert ((y - truth) / truth).abs().max() <= 4 * torch.finfo(torch.float32).eps / 2


def test_large_enough_to_run_on_all_cores(held):
    program = build("gemm.linear", "float32", {"residual": True}, {"K": 300, "M": 520})
    assert held(program, lowered(program), {"N": 2, "P": 401}).ok


def test_applies_to_contractions_alone():
    for name in ("gemm.linear", "image.patch_embed"):
        assert contraction.applies(build(name))
    for name in ("norm.layer_norm", "image.mean_pool", "image.to_planes", "scan.gspn_gates", "scan.gspn_merge", "scan.gspn"):
        assert not contraction.applies(build(name))


def test_refuses_more_accumulators_than_registers():
    space = Space(contraction, build("gemm.linear"), CPU)
    (reason,) = space.refusals(contraction.Knobs(mr=8, nr=2))
    assert "19 vector registers" in reason and "has 16" in reason
    assert not space.refusals(space.point())


def mutated(program, attrs, dims):
    """A Program that claims to be `program` and computes what other attributes or sizes say."""
    other = build(program.name, program.dtype, {**program.attrs, **attrs}, {**program.bound, **dims})
    return replace(program, results=other.results)


@pytest.mark.parametrize(
    ("attrs", "dims"),
    [
        pytest.param({}, {"K": 32}, id="the last step of the reduction is dropped"),
        pytest.param({"bias": False}, {}, id="no bias"),
        pytest.param({"activation": "none"}, {}, id="no activation"),
        pytest.param({"residual": False}, {}, id="no residual"),
        pytest.param({"y_layout": "planes"}, {}, id="the result in the other layout"),
        pytest.param({"x_layout": "planes"}, {}, id="the argument in the other layout"),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_mutations_are_caught(held, dtype, attrs, dims):
    square = {"N": 1, "P": 33, "K": 33, "M": 33}
    program, func = function("gemm.linear", dtype, {"activation": "gelu_tanh", "residual": True}, square, {})
    assert held(program, func, {}).ok
    assert not held(program, lowered(mutated(program, attrs, dims)), {}).ok
