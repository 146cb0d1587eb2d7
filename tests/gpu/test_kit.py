"""The GPU kit on the CPU: packed for it, run by its own script, with a mismatch planted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PROGRAMS = ("norm.layer_norm", "scan.gspn_gates")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kit") / "gpu-kit"
    call = f"pack(Path({str(out)!r}), 'cpu', {PROGRAMS}, ('float32',), wheels=False)"
    script = f"from gpu.pack import pack; from pathlib import Path; {call}"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    return out


def run(kit: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(kit / "run.sh"), "--python", sys.executable, "--device", "cpu", "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=out)


def test_everything_in_order_with_the_table_last(kit: Path, tmp_path: Path) -> None:
    done = run(kit, tmp_path, "--quick")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "all.json").read_text())
    assert list(found) == ["machine", "correctness", "cgspn", "bench"]
    machine = found["machine"]
    assert machine["device"] == "cpu" and machine["versions"]["torch"] and machine["date"] and "--quick" in machine["command"]
    # Two programs, the second in four directions, at four sizes each.
    assert len(found["correctness"]) == (1 + 4) * 4 and all(r["ok"] for r in found["correctness"])
    assert {r["result"] for r in found["cgspn"]} == {"features", "pooled"} and all(r["ok"] for r in found["cgspn"])
    bench = found["bench"]
    assert "cache" in bench["method"] and bench["ceilings"]["copy_bytes_per_second"] > 0
    assert set(bench["ceilings"]["matmul_flops_per_second"]) == {"float32", "float16", "bfloat16"}
    for row in (*bench["kernels"], *bench["models"]):
        assert 0 < row["seconds"]["p10"] <= row["seconds"]["median"] <= row["seconds"]["p90"]
    lines = done.stdout.splitlines()
    assert lines[0] == "kernels: 20 results, 0 mismatches, " + lines[0].partition("mismatches, ")[2]
    assert lines[-1] == f"written: {tmp_path / 'all.json'}" and any(line.startswith("norm.layer_norm") for line in lines)


def test_one_stage_alone(kit: Path, tmp_path: Path) -> None:
    assert run(kit, tmp_path, "--only", "correctness").returncode == 0
    assert list(json.loads((tmp_path / "correctness.json").read_text())) == ["machine", "correctness"]


def test_a_mismatch_is_exit_code_3_and_nothing_is_timed(kit: Path, tmp_path: Path) -> None:
    script = """
import sys
import treadle.ir.oracles.norm.layer_norm as norm
right = norm.oracle
norm.oracle = lambda *args, **inputs: {n: 1.001 * y for n, y in right(*args, **inputs).items()}
from gpu.__main__ import main
raise SystemExit(main(sys.argv[1:]))
"""
    arguments = ["--kit", str(kit), "--out", str(tmp_path), "--device", "cpu", "--quick"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=kit, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    found = json.loads((tmp_path / "all.json").read_text())
    assert "bench" not in found
    wrong = [r for r in found["correctness"] if not r["ok"]]
    assert {r["program"] for r in wrong} == {"norm.layer_norm"} and wrong[0]["why"] == "out of tolerance"
    assert "norm.layer_norm float32" in done.stdout


def test_a_race_and_a_kernel_that_raises_are_mismatches(kit: Path) -> None:
    script = """
import sys
from pathlib import Path
import torch
from gpu import cases, correctness
loaded, module = cases.load(Path(sys.argv[1]) / "kernels", "cpu")
case = loaded[0]
right, calls = module.get_function(case.symbol), []
def unstable(*arrays):
    right(*arrays)
    calls.append(arrays)
    if len(calls) % 2:
        flat = arrays[-1].view(-1)
        flat[0] = torch.nextafter(flat[0], torch.tensor(9.0))
def raising(*arrays):
    raise RuntimeError("launch failure")
assert {r["why"] for r in correctness.check(case, unstable, "cpu")} == {"another run gave other bits: a race"}
assert {r["why"] for r in correctness.check(case, raising, "cpu")} == {"RuntimeError: launch failure"}
assert {r["why"] for r in correctness.check(case, lambda *arrays: None, "cpu")} == {"out of tolerance"}  # nothing was written
"""
    subprocess.run([sys.executable, "-c", script, str(kit)], cwd=kit, check=True)


def test_a_damaged_kit_is_refused(kit: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "kernels"
    damaged.mkdir()
    for file in (kit / "kernels").iterdir():
        if file.is_file():
            (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "kernels.so").write_bytes(b"\x7fELF")
    script = "import sys; from pathlib import Path; from gpu import cases; cases.load(Path(sys.argv[1]), 'cpu')"
    done = subprocess.run([sys.executable, "-c", script, str(damaged)], cwd=kit, capture_output=True, text=True)
    assert done.returncode == 1 and "BundleError" in done.stderr


def test_arguments_of_the_script(kit: Path, tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(kit / "run.sh")], capture_output=True, text=True)
    assert done.returncode == 2 and "--out DIR is missing" in done.stderr
    done = run(kit, tmp_path, "--fast")
    assert done.returncode == 2 and "unknown argument --fast" in done.stderr and "--only correctness" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_device_tests_are_skipped_without_a_device(kit: Path, tmp_path: Path) -> None:
    done = run(kit, tmp_path, "--only", "tests")
    assert "8 skipped" in done.stdout, done.stdout + done.stderr
