"""ptx:sm_90a on the command line, each in a process of its own: a process has one CUDA, and the stand-in would be everybody's."""

import json
import subprocess
import sys

import numpy as np
import pytest

from treadle.errors import ToolchainError


@pytest.fixture(scope="module", autouse=True)
def nvcc():
    from treadle.codegen import nvcc

    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(f"what the PTX machine runs is compiled by nvcc: {missing}")


@pytest.fixture(scope="module")
def planes(tmp_path_factory, cache_dir):
    """A bundle of one kernel for sm_90a: y[n,c,p] = x[n,p,c]."""
    from treadle.cli import main

    path = tmp_path_factory.mktemp("ptx") / "planes.treadle"
    assert main(["compile", "image.to_planes", "--target", "cuda:sm_90a", "-o", str(path), "--json"]) == 0
    return path


def test_run(process, planes, tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 37, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    ran = process(["run", planes, "--device", "ptx:sm_90a", f"--input=x={tmp_path / 'x.npy'}", "--output", tmp_path, "--json"])
    assert ran.code == 0, ran.err
    assert np.array_equal(np.load(ran.json["result"]["outputs"]["y"]["file"]), x.transpose(0, 2, 1))


@pytest.mark.parametrize(
    ("device", "code", "kind", "said"),
    [
        ("ptx:sm_80", 1, "ArchError", "has no library for device ptx:sm_80"),
        ("ptx:sm_90", 1, "ArchError", "has no library for device ptx:sm_90"),
        ("ptx", 2, "UnknownNameError", "unknown device"),
    ],
)
def test_devices_that_are_not_there(process, planes, tmp_path, device, code, kind, said):
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 1), np.float32))
    ran = process(["run", planes, "--device", device, f"--input=x={tmp_path / 'x.npy'}", "--output", tmp_path, "--json"])
    assert (ran.code, ran.error["type"]) == (code, kind) and said in ran.error["message"]


def test_check(process):
    ran = process(["check", "image.to_planes", "norm.layer_norm", "--target", "ptx:sm_90a", "--cases", "3", "--json"])
    assert ran.code == 0, ran.err
    result = ran.json["result"]
    assert result["target"] == "ptx:sm_90a" and result["cases"] == 6 and result["mismatches"] == 0 and result["kernels"] >= 4


def test_targets_that_the_machine_does_not_run(treadle):
    for target, words in (("ptx:sm_100a", "unknown architecture"), ("ptx", "unknown target"), ("ptx:sm_80,sm_90a", "unknown target")):
        ran = treadle("check", "image.to_planes", "--target", target, "--json")
        assert ran.code == 2 and words in ran.error["message"]


#: The check of a kernel from whose PTX all barriers are gone.
PLANTED = """
import sys
from treadle import batch
from treadle.cli import main

right = batch.cuda_code.link_library

def without_barriers(*args, **named):
    files = right(*args, **named)
    return {name: "".join(row for row in text.splitlines(True) if "bar.sync" not in row) for name, text in files.items()}

batch.cuda_code.link_library = without_barriers
sys.exit(main(["check", "image.to_planes", "--target", "ptx:sm_90a", "--cases", "2", "--json"]))
"""


def test_a_hazard_is_reported_like_a_mismatch_and_the_sweep_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TREADLE_CACHE_DIR", str(tmp_path))  # what is wrong must not be found by others
    done = subprocess.run([sys.executable, "-c", PLANTED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    (program,) = json.loads(done.stdout)["result"]["programs"]
    assert program["cases"] == 2 and len(program["mismatches"]) == 2
    for mismatch in program["mismatches"]:
        assert "RaceHazard: kernel image_to_planes" in mismatch["hazard"] and "PTX line" in mismatch["hazard"]


def test_list_names_the_checks(treadle):
    found = {p["program"]: p for p in treadle("list", "--json").json["result"]}
    (schedule,) = found["image.to_planes"]["schedules"]["cuda:sm_90a"]
    assert schedule["state"] == "emulated" and schedule["by"] == ["emulate:sm_90a", "ptx:sm_90a"]


def test_a_kernel_in_python(planes):
    code = (
        "import numpy as np, treadle\n"
        "k = treadle.compile('image.to_planes', target='ptx:sm_90a')\n"
        "x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)\n"
        "assert np.array_equal(k(x), x.transpose(0, 2, 1))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
