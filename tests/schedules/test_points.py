"""Random Points over all programs and schedules: the legal ones equal the oracles, the illegal ones are refused in words."""

import dataclasses
import itertools

import pytest

import treadle
from treadle import points
from treadle.codegen.lower import scheduled, spaces
from treadle.errors import ArgumentError
from treadle.ir import build, definitions
from treadle.schedules.space import Space
from treadle.schedules.target import Target

EMULATED = "emulate:sm_90a"
#: 200 points are 200 compilations, about a second each.
LONG = (pytest.mark.long, pytest.mark.timeout(1800))


@pytest.mark.parametrize("count", [12, pytest.param(200, marks=LONG)])
def test_legal_points_equal_the_oracles_in_emulation(count):
    found = points.legal(EMULATED, count)
    print(f"{found.points} legal points of {len(found.schedules)} schedules, {len(found.mismatches)} mismatches")
    assert not found.mismatches, "\n".join(map(str, found.mismatches))
    if count >= 200:
        assert set(found.schedules) == every_schedule(EMULATED)


@pytest.mark.parametrize("target", ["cpu", EMULATED])
def test_illegal_points_are_refused_with_a_sentence(target):
    found = points.illegal(target, 200)
    print(f"{found.points} illegal points of {len(found.schedules)} schedules refused on {target}")
    assert not found.unsaid, "\n".join(found.unsaid)


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90a"])
def test_compiling_at_an_illegal_point_says_why(target):
    """No compiler is needed to be refused: the Point is looked at first."""
    drawn = (d for d in points.draws(Target.parse(target), 0) if d.reasons and is_default(d.space))
    for d in itertools.islice(drawn, 20):
        program = d.space.program
        where = {"dtype": program.dtype, "attrs": program.attrs, "dims": program.bound, "point": dataclasses.asdict(d.point)}
        with pytest.raises(ArgumentError) as refused:
            treadle.compile(program.name, target, **where)
        assert all(reason in str(refused.value) for reason in d.reasons)


def test_a_wrong_schedule_and_a_silent_refusal_are_reported(monkeypatch):
    """The sweep itself can fail: a kernel of other attributes is a mismatch, and a word is no sentence."""
    right = points.lowered

    def wrong(program, target, space, point):
        if program.name != "norm.layer_norm":
            return right(program, target, space, point)
        other = Space(space.module, build(program.name, program.dtype, {"eps": 7.0}, dict(program.bound)), target)
        found = right(other.program, target, other, point)
        return dataclasses.replace(found, program=program, func=found.func.with_attr("global_symbol", program.symbol))

    monkeypatch.setattr(points, "lowered", wrong)
    monkeypatch.setattr(points, "definitions", lambda: {"norm.layer_norm": definitions()["norm.layer_norm"]})
    assert points.legal(EMULATED, 2).mismatches
    monkeypatch.setattr(Space, "refusals", lambda self, point: ["no"])
    assert points.illegal(EMULATED, 2).unsaid


def is_default(space):
    return spaces(space.program, space.target)[0].name == space.name


def every_schedule(target):
    goal = Target.parse(target)
    return {
        f"{name}/{space.name}"
        for name, definition in definitions().items()
        if scheduled(definition, goal)
        for dtype in definition.dtypes
        for direction in (definition.attrs["direction"].choices if "direction" in definition.attrs else (None,))
        for space in spaces(build(name, dtype, {"direction": direction} if direction else None), goal)
    }
