"""The RMS norms, forward and backward: both schedules against the oracles, mistakes planted in them, and the compiler's report."""

import pytest
import tvm_ffi
from tvm import tirx

from treadle.check import sweep
from treadle.codegen import cuda as codegen
from treadle.codegen import nvcc, ptxas
from treadle.codegen.lower import lower
from treadle.errors import ToolchainError
from treadle.ir import build
from treadle.schedules.norm import row_teams
from treadle.schedules.row_family import FAMILY
from treadle.schedules.target import Target

NAMES = [f"{name}{adjoint}" for name in FAMILY for adjoint in ("", "_adjoint")]
CPU, EMULATED = Target.parse("cpu"), Target.parse("emulate:sm_90a")
#: Rows that are no multiple of a block's, features that are none of a vector's.
SIZES = {"R": 21, "C": 37}, {"R": 21, "G": 2, "S": 37}


def bound(name, **attrs):
    return build(name, "float32", attrs, SIZES["gated" in name])


@pytest.mark.parametrize("target", ["cpu", "emulate:sm_90a"])
def test_random_cases_equal_the_oracles(target):
    for outcome in sweep(NAMES, target, cases=1, seed=7):
        assert not outcome.mismatches, outcome


@pytest.mark.long
@pytest.mark.parametrize("target", ["cpu", "emulate:sm_90a"])
def test_many_random_cases_equal_the_oracles(target):
    for outcome in sweep(NAMES, target, cases=500 if target == "cpu" else 100):
        assert not outcome.mismatches, outcome


def without_rest(loop):
    """Sums stop at the last whole vector."""
    if not (isinstance(loop.extent, tirx.IntImm) and loop.extent.value == 37 % 16):
        return loop
    return tirx.For(loop.loop_var, loop.min, tirx.const(0, "int64"), loop.kind, loop.body)


@pytest.mark.parametrize("name", ["norm.rms_norm", "norm.add_rms_norm_adjoint"])
def test_a_dropped_tail_is_caught(name, mismatched):
    program = bound(name)
    func = lower(program, CPU).func
    assert not mismatched(program, func)
    assert mismatched(program, tvm_ffi.structural_map(func, (tirx.For, without_rest)))


def test_the_other_order_of_gate_and_norm_is_caught(mismatched):
    program, other = (bound("norm.rms_norm_gated_adjoint", norm_before_gate=before) for before in (False, True))
    renamed = lower(other, CPU).func.with_attr("global_symbol", program.symbol)
    assert mismatched(program, renamed)


def test_a_lost_share_of_a_sum_is_caught(monkeypatch, mismatched):
    program = bound("norm.rms_norm")
    assert not mismatched(program, lower(program, EMULATED).func)
    whole = row_teams.Totals._add
    lost = staticmethod(lambda into, words, slot, first, count, stride: whole(into, words, slot, first, count - 1, stride))
    monkeypatch.setattr(row_teams.Totals, "_add", lost)
    assert mismatched(program, lower(program, EMULATED).func)


def test_a_part_of_the_wrong_rows_is_caught(monkeypatch, mismatched):
    program = bound("norm.rms_norm_adjoint")
    monkeypatch.setattr(row_teams._Block, "_row", lambda self, here: self.block * (self.tile - 1) + here)
    assert mismatched(program, lower(program, EMULATED).func)


@pytest.mark.parametrize("name", NAMES)
def test_illegal_points_are_refused_with_a_sentence(name):
    program = build(name, "bfloat16")
    reasons = row_teams.legal(program, EMULATED, row_teams.Knobs(across=1024, rows=16))
    assert reasons and all(len(r.split()) > 5 for r in reasons)


def test_compiled_for_hopper_without_spills_and_with_wide_accesses():
    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(str(missing))
    target = Target.parse("cuda:sm_90a")
    programs = [build("norm.rms_norm_gated_adjoint", "bfloat16")]
    made = codegen.assemble([lower(p, target) for p in programs], target)
    ptxas.refuse_spills(made.usage, made.kernels)
    for kernel in made.kernels:
        text = made.entry("sm_90a", kernel.name)
        assert "ld.global.nc.v4" in text or "ld.global.v4" in text
        assert "st.global.v4" in text
