"""treadle inspect --stage ptx --coverage: the opcodes of a bundle, and whether the PTX machine knows them."""

import pytest

from treadle.cli import main
from treadle.codegen import nvcc
from treadle.codegen.ptxsim import bind
from treadle.errors import ToolchainError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, cache_dir):
    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(str(missing))
    path = tmp_path_factory.mktemp("coverage") / "norm.treadle"
    assert main(["compile", "norm.layer_norm", "--target", "cuda:sm_90a", "-o", str(path), "--json"]) == 0
    return path


def test_inspect_lists_a_bundles_opcodes(treadle, bundle):
    ran = treadle("inspect", bundle, "--stage", "ptx", "--coverage", "--json")
    (found,) = ran.json["result"]["value"].values()
    text = (bundle / "sources" / "sm_90a.ptx").read_text()
    assert ran.code == 0 and found["covered"]
    assert {o["name"]: o["count"] for o in found["opcodes"]}["bar.sync"] == text.count("bar.sync")
    people = treadle("inspect", bundle, "--stage", "ptx", "--coverage")
    assert people.code == 0 and "opcodes covered" in people.out and "bar.sync" in people.out


def test_inspect_says_what_is_unknown(treadle, bundle, monkeypatch):
    monkeypatch.setattr(bind, "known", lambda instr: instr.opcode != "bar")
    line = next(n for n, t in enumerate((bundle / "sources" / "sm_90a.ptx").read_text().split("\n"), 1) if "bar.sync" in t)
    ran = treadle("inspect", bundle, "--stage", "ptx", "--coverage", "--json")
    assert ran.code == 1 and not ran.json["result"]["value"]["sm_90a"]["covered"]
    people = treadle("inspect", bundle, "--stage", "ptx", "--coverage")
    assert people.code == 1 and "1 of " in people.out and f"line {line}" in people.out


@pytest.mark.parametrize("stage", [[], ["--stage", "cuda"]])
def test_coverage_is_of_stage_ptx(treadle, bundle, stage):
    ran = treadle("inspect", bundle, "--coverage", *stage, "--json")
    assert ran.code == 2 and ran.error["type"] == "UsageError" and ran.error["expected"] == "--stage ptx"
