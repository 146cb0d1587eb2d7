"""The CUDA GEMM schedules, emulated against the oracle and compiled for what they promise of the hardware."""

import itertools
import re
import types
from dataclasses import fields, replace
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.codegen import cuda, nvcc, ptxas
from treadle.codegen.lower import lower
from treadle.errors import ToolchainError
from treadle.ir import build
from treadle.schedules.gemm.linear import mma, simt
from treadle.schedules.image.patch_embed import mma as patch_mma
from treadle.schedules.image.patch_embed import simt as patch_simt
from treadle.schedules.space import Space
from treadle.schedules.target import Target

EMULATE = Target.parse("emulate:sm_90a")
LAYOUTS = list(itertools.product(("rows", "planes"), repeat=2))
HALVES = ("float16", "bfloat16")
SIZE = st.sampled_from((1, 2, 7, 8, 13, 16, 24, 31, 33, 40, 64, 97))
DEEP = st.sampled_from((1, 3, 8, 16, 24, 31, 40, 70, 100))
PLANES = {"x_layout": "planes", "y_layout": "planes"}
run = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
few = settings(run, max_examples=6)


@cache
def kernel(module, name, dtype, attrs, dims, knobs):
    """A Program and its emulation; made once, because compiling costs more than running all its cases."""
    program = build(name, dtype, dict(attrs), dict(dims))
    space = Space(module, program, EMULATE)
    return program, lower(program, EMULATE, space, space.point(dict(knobs))).func


def emulated(module, dtype, attrs, dims=None, knobs=None, name="gemm.linear"):
    return kernel(module, name, dtype, *(tuple((d or {}).items()) for d in (attrs, dims, knobs)))


MMA_POINTS = (
    {"bm": 64, "bn": 64, "wm": 32, "wn": 32, "stages": 3},
    {"bm": 32, "bn": 64, "wm": 16, "wn": 32, "bk": 16, "stages": 4},
    {"bm": 128, "bn": 32, "wm": 64, "wn": 16, "bk": 64, "stages": 2},
    {"bm": 64, "bn": 128, "wm": 16, "wn": 64, "bk": 32, "stages": 2},
)
SIMT_POINTS = (
    {"bm": 32, "bn": 64, "tm": 4, "tn": 8},
    {"bm": 64, "bn": 32, "tm": 8, "tn": 4, "bk": 8},
    {"bm": 64, "bn": 64, "bk": 32},
)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("layouts", LAYOUTS, ids="-".join)
@few
@given(n=st.integers(1, 3), p=SIZE, k=DEEP, m=SIZE)
def test_mma_in_symbolic_sizes(held, dtype, layouts, n, p, k, m):
    point = MMA_POINTS[(LAYOUTS.index(layouts) + HALVES.index(dtype)) % len(MMA_POINTS)]
    attrs = {"x_layout": layouts[0], "y_layout": layouts[1], "activation": "gelu_tanh", "residual": True}
    program, func = emulated(mma, dtype, attrs, knobs=point)
    assert held(program, func, {"N": n, "P": p, "K": k, "M": m}).ok


@pytest.mark.parametrize("layouts", LAYOUTS, ids="-".join)
@pytest.mark.parametrize(("k", "m"), [(24, 24), (70, 17), (64, 64)])
def test_mma_at_its_default_in_constant_sizes(held, layouts, k, m):
    attrs = {"x_layout": layouts[0], "y_layout": layouts[1], "bias": k != 70}
    program, func = emulated(mma, "bfloat16", attrs, {"K": k, "M": m})
    for n, p in ((1, 1), (2, 40), (1, 257)):
        assert held(program, func, {"N": n, "P": p}).ok


@settings(run, max_examples=8)
@given(data=st.data(), layouts=st.sampled_from(LAYOUTS), dtype=st.sampled_from(HALVES))
def test_any_legal_point_of_mma(held, data, layouts, dtype):
    point = {f.name: data.draw(st.sampled_from(f.metadata["choices"]), f.name) for f in fields(mma.Knobs)}
    program = build("gemm.linear", dtype, {"x_layout": layouts[0], "y_layout": layouts[1]}, {"K": 88, "M": 40})
    space = Space(mma, program, EMULATE)
    chosen = mma.Knobs(**point)
    if reasons := space.refusals(chosen):
        assert all(len(r.split()) > 3 for r in reasons)
        return
    assert held(program, lower(program, EMULATE, space, chosen).func, {"N": 1, "P": 70}).ok


# float16 takes the same way through the registers as bfloat16, which is rounded more coarsely.
@pytest.mark.parametrize("dtype", ("float32", "bfloat16", pytest.param("float16", marks=pytest.mark.long)))
@pytest.mark.parametrize("layouts", LAYOUTS, ids="-".join)
@few
@given(n=st.integers(1, 3), p=SIZE, k=DEEP, m=SIZE)
def test_simt_in_symbolic_sizes(held, dtype, layouts, n, p, k, m):
    point = SIMT_POINTS[(LAYOUTS.index(layouts) + len(dtype)) % len(SIMT_POINTS)]
    attrs = {"x_layout": layouts[0], "y_layout": layouts[1], "activation": "gelu_tanh", "residual": True}
    program, func = emulated(simt, dtype, attrs, knobs=point)
    assert held(program, func, {"N": n, "P": p, "K": k, "M": m}).ok


@pytest.mark.parametrize(
    ("module", "dtype", "patch"),
    [(patch_mma, "float16", 14), (patch_mma, "bfloat16", 3), (patch_simt, "float32", 14), (patch_simt, "bfloat16", 1)],
    ids=str,
)
@few
@given(n=st.integers(1, 3), c=st.integers(1, 3), h=st.integers(1, 5), w=st.integers(1, 5), m=SIZE)
def test_patch_embed_gathers_on_the_way(held, module, dtype, patch, n, c, h, w, m):
    program, func = emulated(module, dtype, {"patch": patch}, name="image.patch_embed")
    assert held(program, func, {"N": n, "C": c, "H": h, "W": w, "M": m}).ok


def test_patch_embed_in_constant_channels(held):
    program, func = emulated(patch_mma, "bfloat16", {}, {"C": 3, "M": 40}, name="image.patch_embed")
    assert held(program, func, {"N": 2, "H": 5, "W": 7}).ok


def test_what_applies():
    for dtype in HALVES:
        assert mma.applies(build("gemm.linear", dtype))
    assert not mma.applies(build("gemm.linear", "float32"))
    assert simt.applies(build("gemm.linear", "float32"))
    for name in ("norm.layer_norm", "image.mean_pool", "image.to_planes"):
        assert not mma.applies(build(name, "float16")) and not simt.applies(build(name, "float16"))


@pytest.mark.parametrize(
    ("module", "knobs", "sentence"),
    [
        (mma, {"bm": 32}, "not whole warp tiles of 64"),
        (mma, {"bm": 256, "bn": 256, "wm": 16, "wn": 16}, "takes 8192 threads; a block has at most 1024"),
        (mma, {"bm": 256, "bn": 256, "stages": 4, "bk": 64}, "KiB of shared memory; a block on sm_90a has 227"),
        (
            mma,
            {"bm": 256, "bn": 128, "wm": 64, "wn": 16, "bk": 16},
            "registers a thread; sm_90a gives a block of 1024 threads 64",
        ),
        (mma, {"bk": 48}, r"its choices are \[16, 32, 64\]"),
        (simt, {"bm": 128, "bn": 128, "tm": 4, "tn": 4}, "registers a thread; sm_90a gives a block of 1024 threads 64"),
        (simt, {"bm": 32, "bn": 32}, "takes 16 threads; a block has one warp at least"),
    ],
)
def test_illegal_points_are_refused_with_a_sentence(module, knobs, sentence):
    program = build("gemm.linear", "bfloat16")
    refusals = Space(module, program, EMULATE).refusals(replace(module.Knobs(), **knobs))
    assert re.search(sentence, "; ".join(refusals)), refusals


def test_an_architecture_without_the_instruction_is_named():
    old = types.SimpleNamespace(lacks=lambda feature: ["sm_70"] if feature == "mma.bf16" else [], gpus=())
    assert mma.legal(build("gemm.linear", "bfloat16"), old, mma.Knobs()) == ["sm_70 has no mma.bf16"]
    assert not mma.legal(build("gemm.linear", "float16"), old, mma.Knobs())


CASES = (
    ("gemm.linear", mma, "bfloat16", {"activation": "gelu_tanh"}, {"K": 1152, "M": 4304}),
    ("gemm.linear", mma, "float16", {"residual": True}, {"K": 4304, "M": 1152}),
    ("gemm.linear", mma, "bfloat16", PLANES, {"K": 64, "M": 64}),
    ("gemm.linear", mma, "bfloat16", {**PLANES, "residual": True}, {}),
    ("gemm.linear", simt, "float32", {"activation": "gelu_tanh"}, {"K": 1152, "M": 4304}),
    ("image.patch_embed", patch_mma, "bfloat16", {}, {"C": 3, "M": 1152}),
    ("image.patch_embed", patch_simt, "float32", {}, {"C": 3, "M": 1152}),
)


@pytest.mark.parametrize("arch", ["sm_90a", pytest.param("sm_80", marks=pytest.mark.long)])
def test_compiled_without_spills_to_the_instructions_promised(arch):
    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(str(missing))
    target = Target.parse(f"cuda:{arch}")
    lowered = []
    for name, module, dtype, attrs, dims in CASES:
        program = build(name, dtype, attrs, dims)
        lowered.append(lower(program, target, Space(module, program, target)))
    made = cuda.assemble(lowered, target)
    assert len(made.kernels) == len(made.usage[arch]) == len(CASES)
    ptxas.refuse_spills(made.usage, made.kernels)
    functions = {k.of.symbol: k for k in made.kernels}
    for one, (_, module, *_) in zip(lowered, CASES, strict=True):
        k = functions[one.symbol]
        for instruction in ("mma.sync.aligned.m16n8k16", "ldmatrix.sync.aligned.m8n8.x4", "cp.async."):
            assert (instruction in made.entry(arch, k.name)) == (module in (mma, patch_mma)), (k.name, instruction)
    # 16-byte copies in flight reach past the last element that TVM sees: the launch must ask for all of every stage.
    assert functions[lowered[0].symbol].dynamic_shared == mma.default(lowered[0].program, target).shared_bytes
