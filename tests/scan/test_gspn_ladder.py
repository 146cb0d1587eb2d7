"""Every rung of the ladder on the PTX machine: against the oracle, by the properties that decide, and mutated.

What is checked stands in ladder_on_machine.py, which runs once for each tier in a process of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest

from treadle.codegen import lower as low
from treadle.codegen import nvcc
from treadle.errors import ArgumentError, ToolchainError
from treadle.ir import build
from treadle.schedules.scan.gspn import ORDER
from treadle.schedules.scan.gspn_adjoint import ORDER as ADJOINT
from treadle.schedules.target import Target

CUDA, EMULATED = Target.parse("cuda:sm_90a"), Target.parse("emulate:sm_90a")
BASELINES = ("per_step", "one_launch", "coalesced")
PROPERTIES = ("equals_the_oracle", "equals_the_dense_affinity", "counts_its_steps", "mirrors_lines", "starts_afresh_at_chunks")
MUTATIONS = ("outer gates exchanged", "chunk leak", "last step missing", "border unmasked")
LINES = (None, 31, 74, 147, 256, 1000, 1023, 2048, 2049, 4096)


@cache
def found(tier):
    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(str(missing))
    script = Path(__file__).with_name("ladder_on_machine.py")
    done = subprocess.run([sys.executable, str(script), tier], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("rung", ORDER)
@pytest.mark.parametrize("holds", PROPERTIES)
def test_property(holds, rung):
    assert found("ci")[holds][rung] == ""


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutants_are_killed(mutation):
    killed = found("ci")[mutation]
    assert killed and all(killed.values()), killed


@pytest.mark.long  # sixty kernels for nvcc
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutants_of_every_rung_are_killed(mutation):
    killed = found("mutants")[mutation]
    assert set(killed) == set(ORDER) and all(killed.values()), killed


@pytest.mark.long  # all kernels of all rungs
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_any_size(dtype):
    said = found("sizes")[f"any size in {dtype}"]
    assert len(said) == len(ORDER) - (dtype != "float32") and not any(said.values()), said


@pytest.mark.long  # and those of the adjoint
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_any_size_backward(dtype):
    said = found("adjoint")[f"any size in {dtype}"]
    assert set(said) == set(ADJOINT) and not any(said.values()), said


# What is chosen and what is refused.


def programs():
    for name in ("scan.gspn", "scan.gspn_adjoint"):
        for dtype in ("float32", "bfloat16"):
            for direction in ("t2b", "l2r"):
                for line in LINES:
                    yield line, build(name, dtype, {"direction": direction}, None if line is None else {"H": line, "W": line})


def test_defaults_are_legal_and_never_a_baseline():
    chosen = set()
    for line, program in programs():
        for target in (CUDA, EMULATED):
            known = low.spaces(program, target)
            assert known[0].name not in BASELINES
            for space in known:
                assert not space.refusals(space.point()), (program.name, program.dtype, line, space.name)
        if program.name == "scan.gspn":
            chosen.add(low.spaces(program, CUDA)[0].name)
    assert chosen == {"staged", "line", "latency", "cluster", "tile"}
    shared = build("scan.gspn", "float32", {}, {"C": 8, "G": 1, "H": 256, "W": 256})
    assert low.spaces(shared, CUDA)[0].name == "together"


def test_what_needs_warps_or_clusters_is_not_emulated():
    names = {s.name for d in ("t2b", "l2r") for s in low.spaces(build("scan.gspn", "float32", {"direction": d}), EMULATED)}
    assert names == set(ORDER) - {"shuffle", "latency", "cluster"}


def test_an_older_device_is_refused_by_name():
    space = next(s for s in low.spaces(build("scan.gspn"), Target.parse("cuda:sm_80")) if s.name == "cluster")
    assert any("sm_80 has no clusters" in reason for reason in space.refusals(space.module.default(space.program, space.target)))


def test_sixteen_bits_cannot_be_read_back_step_by_step():
    assert "per_step" not in {s.name for s in low.spaces(build("scan.gspn", "bfloat16"), CUDA)}


def test_every_illegal_point_says_why():
    refused = 0
    for line, program in programs():
        if line != 4096 or program.name != "scan.gspn" or program.dtype != "float32":
            continue
        for space in low.spaces(program, CUDA):
            for point in space.points():
                if reasons := space.refusals(point):
                    refused += 1
                    assert all(re.search(r"\d", r) and len(r.split()) > 4 for r in reasons), reasons
                    if refused % 20 == 0:
                        with pytest.raises(ArgumentError, match="refuses this point"):
                            space.point(asdict(point))
    assert refused >= 80
