"""Every verb answers: a table for people, one JSON value for programs."""

import json

import numpy as np
import pytest

from treadle.cli import subject

ANYWHERE = [
    ["list"],
    ["show", "scan.gspn"],
    ["show", "gemm.linear", "--attr", "residual=true"],
    ["models"],
    ["cache", "ls"],
    ["cache", "verify"],
    ["cache", "prune"],
    ["check", "norm.layer_norm", "--cases", "3"],
    ["bench", "plan"],
]


@pytest.mark.parametrize("line", ANYWHERE, ids=" ".join)
def test_verb(treadle, line):
    people, programs = treadle(*line), treadle(*line, "--json")
    assert people.code == programs.code == 0, people.err
    assert people.out.strip()
    assert programs.json["verb"] == line[0]


def test_doctor(treadle):
    ran = treadle("doctor", "--json")
    found = {f["what"]: f for f in ran.json["result"]["findings"]}
    assert ran.code == (0 if ran.json["result"]["ok"] else 1)
    assert found["ffi pin"]["found"] == "0.27.0.post1 with ffi 0.1.14.post1"
    assert {"c++ compiler", "cpu level", "cache", "TREADLE_NUM_THREADS"} <= set(found)


def test_list_names_every_program_with_a_proven_schedule(treadle):
    from treadle.ir import definitions

    found = {f["program"]: f for f in treadle("list", "--json").json["result"]}
    assert set(found) == set(definitions())
    assert all(f["schedules"]["cpu"] for f in found.values())
    states = {t: {s["state"] for f in found.values() for s in f["schedules"][t]} for t in ("cpu", "cuda:sm_90a")}
    assert states == {"cpu": {"proven"}, "cuda:sm_90a": {"emulated"}}
    assert {s["name"] for s in found["gemm.linear"]["schedules"]["cuda:sm_90a"]} == {"mma", "simt"}
    assert found["scan.gspn"]["adjoint"] == "scan.gspn_adjoint"


def test_show_states_the_contract(treadle):
    facts = treadle("show", "scan.gspn", "--json").json["result"]
    assert [(a["name"], a["shape"]) for a in facts["arguments"]][2] == ("gates", ["N", "3", "G", "H", "W"])
    assert facts["attributes"]["direction"]["choices"] == ["t2b", "b2t", "l2r", "r2l"]
    assert facts["dims"]["G"]["one_of"] == ["1", "C"]
    assert all(k["why"] for s in facts["schedules"]["cpu"] for k in s["knobs"])


def test_models_count_parameters(treadle):
    found = {m["model"]: m["parameters"] for m in treadle("models", "--json").json["result"]}
    plain, hybrid = ["cgspn:tiny", "cgspn:base", "cgspn:so400m"], ["cgspn:tiny-hybrid", "cgspn:so400m-hybrid"]
    assert sorted(found) == sorted(plain + hybrid)
    assert found["cgspn:tiny"] < found["cgspn:base"] < found["cgspn:so400m"]


def test_compile_reports_what_it_did(treadle, tmp_path):
    out = tmp_path / "gates.treadle"
    line = ["compile", "scan.gspn_gates", "--attr", "direction=b2t", "--dim", "H=8", "--dim", "W=1..64", "-o", out, "--json"]
    first, second = treadle(*line).json["result"], treadle(*line).json["result"]
    assert first["kernels"] == first["nodes"] == 1
    assert second["cached"]
    dims = json.loads((out / "manifest.json").read_text())["dims"]
    assert "H" not in dims and (dims["W"]["lo"], dims["W"]["hi"]) == (1, 64)


def test_a_model_within_bounds():
    graph = subject.graph("cgspn", "float32", ["depth=1"], {"H": (28, 56), "N": 1})
    assert graph.name == "cgspn:tiny"
    assert (graph.dims["H"].lo, graph.dims["H"].hi, graph.dims["N"].hi, graph.dims["W"].hi) == (28, 56, 1, 2058)


@pytest.mark.parametrize("stage", ["manifest", "plan", "te", "tir", "report"])
def test_inspect_stage(treadle, encoder, stage):
    people, programs = treadle("inspect", encoder, "--stage", stage), treadle("inspect", encoder, "--stage", stage, "--json")
    assert people.code == programs.code == 0
    assert people.out.strip() and programs.json["result"]["value"]


def test_inspect(treadle, encoder):
    assert "features" in treadle("inspect", encoder).out
    result = treadle("inspect", encoder, "--json").json["result"]
    assert result["manifest"]["name"] == "cgspn:tiny"
    assert "lib/cpu.so" in result["files"]


@pytest.mark.parametrize("stage", ["cuda", "ptx"])
def test_a_cpu_bundle_has_no_cuda_stages(treadle, encoder, stage):
    ran = treadle("inspect", encoder, "--stage", stage, "--json")
    assert ran.code == 1
    assert ran.error["type"] == "ArchError" and "manifest, plan, te, tir, report" in ran.error["expected"]


def test_bench_writes_its_result(treadle, tmp_path):
    file = tmp_path / "deep" / "plan.json"
    ran = treadle("bench", "plan", "-o", file, "--json")
    (report,) = json.loads(file.read_text())
    assert report.keys() == ran.json["result"][0].keys() >= {"bench", "machine", "date", "versions", "method", "rows"}
    assert report["rows"][2]["ns_per_node"] < 1000


def test_run_arrays_unaltered(treadle, tmp_path):
    bundle, x = tmp_path / "planes.treadle", np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert treadle("compile", "image.to_planes", "-o", bundle).code == 0
    np.save(tmp_path / "x.npy", x)
    ran = treadle("run", bundle, f"--input=x={tmp_path / 'x.npy'}", "--output", tmp_path / "out", "--json")
    assert ran.code == 0 and ran.json["result"]["notes"] == []
    assert np.array_equal(np.load(tmp_path / "out" / "y.npy"), x.transpose(0, 2, 1))
