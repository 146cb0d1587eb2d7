"""scan.causal_conv1d and its adjoint: both schedules against the oracles, mistakes planted in them, the compiler's report."""

import pytest
import tvm_ffi
from tvm import ir, tirx

from treadle.check import sweep
from treadle.codegen import cuda as codegen
from treadle.codegen import nvcc, ptxas
from treadle.codegen.lower import lower
from treadle.errors import ToolchainError
from treadle.ir import build
from treadle.schedules.scan import conv_windows
from treadle.schedules.scan.conv_window import Windows
from treadle.schedules.target import Target

NAMES = ("scan.causal_conv1d", "scan.causal_conv1d_adjoint")
CPU, EMULATED, CUDA = (Target.parse(t) for t in ("cpu", "emulate:sm_90a", "cuda:sm_90a"))
SIZES = {"B": 2, "L": 37, "D": 7}


def bound(name, **attrs):
    return build(name, "float32", {"activation": "none", **attrs}, SIZES)


@pytest.mark.parametrize("target", ["cpu", "emulate:sm_90a"])
def test_random_cases_equal_the_oracles(target):
    for outcome in sweep(NAMES, target, cases=1, seed=5):
        assert not outcome.mismatches, outcome


@pytest.mark.long
@pytest.mark.parametrize("target", ["cpu", "emulate:sm_90a"])
def test_many_random_cases_equal_the_oracles(target):
    for outcome in sweep(NAMES, target, cases=500 if target == "cpu" else 100):
        assert not outcome.mismatches, outcome


@pytest.mark.parametrize("name", NAMES[:1])
def test_a_border_that_is_not_asked_for_is_caught(name, mismatched):
    """Where `initial` and x were to be chosen between, `initial` is read."""
    program = bound(name, layout="bdl")
    func = lower(program, CPU).func

    def swapped(call):
        early = getattr(call.op, "name", "") == "prim.if_then_else" and "initial" in str(call.args[2])
        return call.args[2] if early else call

    assert not mismatched(program, func)
    assert mismatched(program, tvm_ffi.structural_map(func, (ir.Call, swapped)))


@pytest.mark.parametrize(("name", "layout"), list(zip(NAMES, ("bdl", "bld"), strict=True)))
def test_taps_in_reverse_are_caught(name, layout, monkeypatch, mismatched):
    program = bound(name, layout=layout)
    right = Windows.load

    def reversed_taps(self, i, t, c, past, g, dy=None, weight=None):
        return right(self, i, t, c, lambda k: past(self.reach - k), g, dy, weight)

    monkeypatch.setattr(Windows, "load", reversed_taps)
    assert mismatched(program, lower(program, EMULATED).func)


@pytest.mark.parametrize(
    ("layout", "target"),
    [("bld", EMULATED), *(pytest.param(*p, marks=pytest.mark.long) for p in (("bdl", EMULATED), ("bld", CPU), ("bdl", CPU)))],
)
def test_gradients_reach_from_one_part_into_the_next(layout, target, mismatched):
    """The random cases are shorter than a part of 256 steps."""
    attrs = {"layout": layout, "packed": layout == "bdl"}
    program = build("scan.causal_conv1d_adjoint", "float32", attrs, {"B": 2, "L": 523, "D": 5})
    assert not mismatched(program, lower(program, target).func)


def test_a_sequence_that_is_not_cut_is_caught(monkeypatch, mismatched):
    program = bound("scan.causal_conv1d", packed=True)
    monkeypatch.setattr(Windows, "_same", lambda self, i, t, k: tirx.const(True, "bool"))
    assert mismatched(program, lower(program, EMULATED).func)


@pytest.mark.parametrize("name", NAMES)
def test_illegal_points_are_refused_with_a_sentence(name):
    program = build(name, "float32", dims={"D": 7})
    reasons = conv_windows.legal(program, EMULATED, conv_windows.Knobs(access=16))
    assert reasons and all(len(r.split()) > 5 for r in reasons)


def test_compiled_for_hopper_without_spills():
    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(str(missing))
    programs = [
        build("scan.causal_conv1d_adjoint", "bfloat16", {"packed": True}),
        build(NAMES[0], "bfloat16", {"layout": "bdl"}),
    ]
    made = codegen.assemble([lower(p, CUDA) for p in programs], CUDA)
    ptxas.refuse_spills(made.usage, made.kernels)
    assert len(made.kernels) == len(programs)
