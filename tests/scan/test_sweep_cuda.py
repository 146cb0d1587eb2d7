"""CUDA schedules of sweeps: emulated and on the PTX machine, against the oracles and by what must hold without one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import cache

import pytest
import torch
import tvm
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.batch import compile_many
from treadle.cases import draw_inputs, generator
from treadle.check import _verdicts
from treadle.codegen.lower import lower, spaces
from treadle.codegen.ptxsim.hazards import HazardError
from treadle.ir import build
from treadle.ir import dims as dm
from treadle.schedules.scan.sweep import plane
from treadle.schedules.target import Target

from .mutations import MUTATIONS

EMULATED, CUDA, PTX = (Target.parse(f"{kind}:sm_90a") for kind in ("emulate", "cuda", "ptx"))
DIRECTIONS = ("t2b", "b2t", "l2r", "r2l")
CASES = [
    ("scan.gspn2d", "float32", {"skip": True, "chunk": 3}),
    ("scan.gspn2d", "bfloat16", {}),
    ("scan.gspn_logits", "float16", {"direction": "r2l", "chunk": 5}),
    ("scan.gspn_logits_adjoint", "float32", {"direction": "b2t", "chunk": 3}),
    ("scan.gspn_logits_adjoint", "bfloat16", {"direction": "l2r"}),
    pytest.param(("scan.gspn2d_adjoint", "float32", {"skip": True, "chunk": 3}), marks=pytest.mark.long),  # 10 s to compile
    pytest.param(("scan.gspn2d_adjoint", "bfloat16", {}), marks=pytest.mark.long),
]


def emulated(program, **point):
    space = spaces(program, EMULATED)[0]
    made = lower(program, EMULATED, space, space.point(point))
    module = tvm.ir.IRModule({made.symbol: made.func})
    return tvm.compile(module, target={"kind": "llvm", "mcpu": "x86-64-v3"})[program.symbol]


@cache
def kernel(name, dtype, attrs):
    program = build(name, dtype, dict(attrs))
    return program, emulated(program, threads=32)


def of(case):
    return kernel(case[0], case[1], tuple(case[2].items()))


def sizes(n, c, h, w, shared=False):
    return {"N": n, "C": c, "H": h, "W": w, "G": 1 if shared else c}


def call(function, program, inputs, shape):
    results = [torch.full([dm.evaluate(s, shape) for s in t.shape], torch.nan, dtype=getattr(torch, str(t.dtype))) for t in program.results]
    function(*(tvm_ffi.from_dlpack(t) for t in (*inputs.values(), *results)))
    return results


# A line of at most 32 is walked with loads ahead, a longer one in strides.
LENGTHS = st.sampled_from((1, 2, 3, 4, 8, 15, 16, 31, 32, 33, 48))


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1]}")
def test_emulated_sweeps_equal_their_oracles(case):
    program, function = of(case)

    @settings(max_examples=15, deadline=None)
    @given(st.integers(1, 2), st.sampled_from((1, 2, 3, 5)), LENGTHS, LENGTHS, st.booleans(), st.integers(0, 2**20))
    def run(n, c, h, w, shared, seed):
        for name, verdict in _verdicts(program, function, sizes(n, c, h, w, shared), generator(seed, "sweep")).items():
            assert verdict.ok, (name, case, n, c, h, w, shared, verdict)

    run()


def test_a_plane_larger_than_shared_memory_is_summed_in_bands():
    program, function = of(("scan.gspn2d", "bfloat16", {}))
    shape = sizes(1, 1, 200, 210)
    rows = dm.constant(plane.band_of(build(program.name, "bfloat16", {}, shape).sweep.scans, 227 << 10)[0])
    assert 1 < rows < 200
    assert all(v.ok for v in _verdicts(program, function, shape, generator(0, "bands")).values())


# What must hold without an oracle.


def operator(n, c, h, w, seed=0, shared=False):
    program, function = of(("scan.gspn2d", "float32", {"skip": True, "chunk": 3}))
    shape = sizes(n, c, h, w, shared)
    inputs = draw_inputs(program, shape, generator(seed, "operator"))
    return lambda **changed: call(function, program, {**inputs, **changed}, shape)[0], inputs


def test_without_neighbours_the_four_directions_merge_to_the_identity():
    """Chunks of one step carry nothing; lam = u = 1 and merge 1/4 then give x back, if every direction finds its way home."""
    program = build("scan.gspn2d", "float32", {"chunk": 1}, {"H": 5, "W": 7})
    inputs = draw_inputs(program, shape := sizes(2, 3, 5, 7), generator(0, "identity"))
    inputs |= {"lam": torch.ones_like(inputs["lam"]), "u": torch.ones_like(inputs["u"]), "merge": torch.full((4,), 0.25)}
    (y,) = call(emulated(program), program, inputs, shape)
    assert torch.equal(y, inputs["x"])


def test_the_operator_turns_with_the_picture():
    """Transposed and flipped along both axes: the directions exchange places, and the outer gates theirs."""
    turned, given_ = operator(1, 2, 9, 14)
    y = turned()
    flip, _ = operator(1, 2, 14, 9)
    places = [2, 3, 0, 1]
    transposed = {n: t if n == "merge" else t.mT.contiguous() for n, t in given_.items()}
    transposed |= {n: transposed[n][:, places].contiguous() for n in ("lam", "u", "d", "logits")}
    transposed["merge"] = given_["merge"][places].contiguous()
    torch.testing.assert_close(flip(**transposed), y.mT, rtol=1e-5, atol=1e-5)
    back = [1, 0, 3, 2]
    flipped = {n: t if n == "merge" else t.flip(-1, -2) for n, t in given_.items()}
    flipped |= {n: flipped[n][:, back].contiguous() for n in ("lam", "u", "d")}
    flipped |= {"x": flipped["x"].contiguous(), "merge": given_["merge"][back].contiguous()}
    flipped["logits"] = flipped["logits"][:, back].flip(2).contiguous()
    torch.testing.assert_close(turned(**flipped), y.flip(-1, -2), rtol=1e-5, atol=1e-5)


def test_the_operator_is_linear_in_x():
    run, given_ = operator(1, 2, 8, 13, shared=True)
    other = torch.randn(given_["x"].shape, generator=torch.Generator().manual_seed(1))
    both = run(x=2 * given_["x"] - 3 * other)
    torch.testing.assert_close(both, 2 * run() - 3 * run(x=other), rtol=1e-4, atol=1e-4)


def test_a_unit_source_counts_the_steps():
    """h = t + 1: gates that sum to one at the ends of a line too, a carry in float32, nothing lost between the steps."""
    program, function = of(("scan.gspn_logits", "float16", {"direction": "r2l", "chunk": 5}))
    shape = sizes(1, 1, 6, 13)
    inputs = draw_inputs(program, shape, generator(0, "unit"))
    inputs |= {n: torch.ones_like(inputs[n]) for n in ("x", "lam")}
    (h,) = call(function, program, inputs, shape)
    count = (torch.arange(13) % 5 + 1).flip(0).half()
    torch.testing.assert_close(h, count.expand_as(h), rtol=2e-3, atol=0)


def test_runs_are_bitwise_equal():
    run, _ = operator(2, 3, 9, 13)
    assert torch.equal(run(), run())


# A test that cannot fail is a defect.


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_planted_mutations_are_caught(mutation):
    shape = sizes(1, 3, 12, 19)
    program = build("scan.gspn_logits", "float32", {"direction": "l2r", "chunk": 7}, shape)
    changed = replace(program, sweep=replace(program.sweep, scans=tuple(map(MUTATIONS[mutation], program.sweep.scans))))
    found = _verdicts(changed, emulated(changed), shape, generator(0, "mutant"))
    assert all(v.ok for v in found.values()) == (mutation == "none")


def test_on_the_ptx_machine_opposite_walks_never_meet(monkeypatch):
    """Both kernels run as nvcc compiled them; where the second walk does not start late, the machine sees the race."""
    shape = sizes(1, 2, 5, 7)
    with ExitStack() as keep:
        right = lower(build("scan.gspn2d", "bfloat16", {}, shape), CUDA)
        backward = lower(build("scan.gspn_logits_adjoint", "bfloat16", {"direction": "l2r"}, shape), CUDA)
        monkeypatch.setattr(plane, "_lags", lambda alike: [tvm.tirx.const(0, "int64") for _ in alike])
        wrong = lower(build("scan.gspn2d", "bfloat16", {"chunk": 4}, shape), CUDA)
        found = compile_many([right, backward, wrong], PTX, keep, lambda _: None)
        for made in (right, backward):
            verdicts = _verdicts(made.program, found[id(made)], shape, generator(0, "ptx"))
            assert all(v.ok for v in verdicts.values()), verdicts
        with pytest.raises(HazardError, match="RaceHazard"):
            _verdicts(wrong.program, found[id(wrong)], shape, generator(0, "ptx"))


# Refusals.


def test_points_are_refused_with_a_reason():
    program = build("scan.gspn2d", "float32", {}, {"H": 8, "W": 60000})
    space = spaces(program, CUDA)[0]
    assert "shared memory" in " ".join(space.refusals(space.module.Knobs()))
    twice = replace(program, sweep=replace(program.sweep, scans=(*program.sweep.scans, program.sweep.scans[0])))
    assert "more than 2 scans along one axis" in " ".join(spaces(twice, CUDA)[0].refusals(space.module.Knobs()))


def test_defaults_are_legal_at_any_size():
    for name, dtype in (("scan.gspn2d", "bfloat16"), ("scan.gspn2d_adjoint", "float32"), ("scan.gspn_logits_adjoint", "float16")):
        for line in (None, 1, 37, 74, 147, 256, 1024, 4096):
            space = spaces(build(name, dtype, {}, {"H": line, "W": line} if line else None), CUDA)[0]
            assert not space.refusals(space.point()), (name, line)
