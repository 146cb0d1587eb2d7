"""The CUDA schedules of gspn_gates and gspn_merge, emulated: threads one after another on the CPU, and compiled."""

import re
from dataclasses import fields
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.codegen import cuda as codegen
from treadle.codegen import nvcc, ptxas
from treadle.codegen.lower import lower
from treadle.errors import ArgumentError, ToolchainError
from treadle.ir import build
from treadle.ir.oracles.scan import gspn_merge as merge_oracle
from treadle.schedules import cuda
from treadle.schedules.scan.gspn_gates import pixels as gates
from treadle.schedules.scan.gspn_merge import pixels as merge
from treadle.schedules.serial import serial
from treadle.schedules.target import Target

EMULATED, CUDA = Target.parse("emulate:sm_90a"), Target.parse("cuda:sm_90a")
DTYPES = ("float32", "float16", "bfloat16")
DIRECTIONS = ("t2b", "b2t", "l2r", "r2l")
GATES = ("scan.gspn_gates", "scan.gspn_gates_adjoint")
EACH = (*((name, {"N": 2, "G": 2, "H": 9, "W": 16}) for name in GATES), ("scan.gspn_merge", {"N": 2, "C": 3, "P": 65}))
REFUSED = (
    ("scan.gspn_gates", {"G": 1, "H": 37, "W": 37}, {"access": 16}),
    ("scan.gspn_gates", None, {"access": 2}),
    ("scan.gspn_merge", None, {"threads": 96}),
)
SIZES = st.sampled_from((1, 2, 3, 5, 8, 16, 17, 37, 64))
SMALL = st.sampled_from((1, 2, 3, 5))
run = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))


def space(program, target=EMULATED):
    (found,) = cuda.spaces(program, target)
    return found


@cache
def emulated(name, dtype, attrs=(), dims=(), point=None):
    program = build(name, dtype, dict(attrs), dict(dims))
    found = space(program)
    return program, serial(found.lower(point or found.point()))


@cache
def legal_points(name, dtype, dims=()):
    return list(space(build(name, dtype, dims=dict(dims))).legal())


@pytest.fixture
def merged_with_skip(monkeypatch):
    """The merge as its Program states it, d_d x included."""

    def oracle(attrs, dtype, **inputs):
        inputs = {k: v.to(dtype) for k, v in inputs.items()}
        gated = [inputs[f"u_{d}"] * inputs[f"h_{d}"] + inputs[f"d_{d}"] * inputs["x"] for d in DIRECTIONS]
        return {"y": sum(weight * each for weight, each in zip(inputs["merge"], gated, strict=True))}

    monkeypatch.setattr(merge_oracle, "oracle", oracle)


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("dtype", DTYPES)
@run
@given(data=st.data())
def test_gates_of_any_size_and_point(held, dtype, name, data):
    sizes = {"N": data.draw(SMALL), "G": data.draw(SMALL), "H": data.draw(SIZES), "W": data.draw(SIZES)}
    bound = tuple((n, s) for n, s in sizes.items() if data.draw(st.booleans()))
    point = data.draw(st.sampled_from(legal_points(name, dtype, bound)))
    direction = (("direction", data.draw(st.sampled_from(DIRECTIONS))),)
    program, func = emulated(name, dtype, direction, bound, point)
    assert held(program, func, sizes).ok


@pytest.mark.parametrize("dtype", DTYPES)
@run
@given(data=st.data())
def test_merge_of_any_size_and_point(held, dtype, data):
    sizes = {"N": data.draw(SMALL), "C": data.draw(SMALL), "P": data.draw(SIZES)}
    bound = tuple((n, s) for n, s in sizes.items() if data.draw(st.booleans()))
    point = data.draw(st.sampled_from(legal_points("scan.gspn_merge", dtype, bound)))
    program, func = emulated("scan.gspn_merge", dtype, (), bound, point)
    assert held(program, func, sizes).ok


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bound", [(), (("C", 8),)], ids=["symbolic", "constant"])
def test_merge_with_skip(held, merged_with_skip, dtype, bound):
    program, func = emulated("scan.gspn_merge", dtype, (("skip", True),), bound)
    for sizes in ({"N": 1, "C": 8, "P": 37}, {"N": 2, "C": 8, "P": 129}):
        assert held(program, func, sizes).ok


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gates_in_every_direction_aligned_or_not(held, dtype, direction):
    program, func = emulated("scan.gspn_gates", dtype, (("direction", direction),))
    for h, w in ((1, 1), (1, 8), (8, 1), (2, 4), (37, 37), (5, 24)):
        assert held(program, func, {"N": 2, "G": 1, "H": h, "W": w}).ok, (h, w)


@pytest.mark.parametrize(("name", "sizes"), EACH)
def test_every_choice_of_every_knob(held, name, sizes):
    seen = set()
    for number, point in enumerate(legal_points(name, "float32")):
        choices = {(k.name, getattr(point, k.name)) for k in fields(point)}
        if choices <= seen:
            continue
        seen |= choices
        program, func = emulated(name, "float32", (), (), point)
        assert held(program, func, sizes, seed=number).ok, point


def test_more_images_than_a_grid_has_along_y(held):
    program, func = emulated("scan.gspn_gates", "float32")
    assert held(program, func, {"N": 70001, "G": 1, "H": 1, "W": 1}).ok


@pytest.mark.parametrize(("name", "dims", "given_"), REFUSED)
def test_illegal_points_are_refused_with_a_sentence(name, dims, given_):
    found = space(build(name, dims=dims))
    with pytest.raises(ArgumentError, match="refuses this point"):
        found.point(given_)
    assert all(len(reason.split()) > 5 for p in found.points() for reason in found.refusals(p))


def test_swapped_neighbours_are_caught(held, monkeypatch):
    program, func = emulated("scan.gspn_gates", "float32")
    assert held(program, func, {"N": 1, "G": 2, "H": 9, "W": 11}).ok
    whole = gates._Place.value
    monkeypatch.setattr(gates._Place, "value", lambda self, tensor, k, load: whole(self, tensor, 2 - k, load))
    assert not held(program, serial(space(program).lower(space(program).point())), {"N": 1, "G": 2, "H": 9, "W": 11}).ok


def test_a_stuck_odometer_is_caught(held, monkeypatch):
    program = build("scan.gspn_gates")
    monkeypatch.setattr(gates._Place, "step", lambda self: None)
    assert not held(program, serial(space(program).lower(space(program).point())), {"N": 1, "G": 2, "H": 9, "W": 12}).ok


def test_a_dropped_tail_is_caught(held, monkeypatch):
    program = build("scan.gspn_merge")
    monkeypatch.setattr(merge._Group, "ragged", lambda self: merge.T.evaluate(0))
    assert not held(program, serial(space(program).lower(space(program).point())), {"N": 1, "C": 3, "P": 65}).ok


def test_compiled_for_hopper_without_spills_and_with_wide_accesses():
    programs = [
        build("scan.gspn_gates", "bfloat16", {"direction": "l2r"}, {"H": 64, "W": 64}),
        build("scan.gspn_gates", "float32", {"direction": "l2r"}),
        build("scan.gspn_merge", "bfloat16", {"skip": True}, {"C": 1152}),
        build("scan.gspn_merge", "float32", {"skip": True}),
    ]
    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(str(missing))
    made = codegen.assemble([lower(p, CUDA) for p in programs], CUDA)
    assert len(made.kernels) == len(programs)
    ptxas.refuse_spills(made.usage, made.kernels)
    for kernel in made.kernels:
        text = made.entry("sm_90a", kernel.name)
        planes = 3 if "gates" in kernel.name else 1
        assert len(re.findall(r"st\.global[.\w]*\.v4", text)) == planes
        assert len(re.findall(r"ld\.global[.\w]*\.v4", text)) == (3 if planes == 3 else 13)
        # One exponential per logit of each lane, on the wide path and on the other.
        assert len(re.findall(r"ex2\.approx", text)) in ((24,) if planes == 3 else (0,))
