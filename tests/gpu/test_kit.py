"""The GPU kit whole: packed for the CPU and run by its own script, with mistakes planted; and packed for CUDA, to be looked at."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from treadle.codegen import fatbin, nvcc
from treadle.errors import ToolchainError
from treadle.runtime.sums import write_sums

ROOT = Path(__file__).parents[2]
PROGRAMS = ("norm.layer_norm", "scan.gspn_gates")
pytestmark = pytest.mark.long  # packing compiles an encoder, and libraries for CUDA where there is nvcc
#: On the GPU machine there is no compiler: nothing of it may be imported.
BARE = "import sys\nfor name in ('tvm', 'networkx', 'filelock'):\n    sys.modules[name] = None\n"


def pack(out: Path, *arguments: object, **options: object) -> Path:
    call = f"pack(Path({str(out)!r}), *{arguments!r}, **{options!r})"
    script = f"from gpu.pack import pack; from pathlib import Path; {call}"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    return out


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("kit") / "gpu-kit", "cpu", PROGRAMS, ("float32",), wheels=False)


@pytest.fixture
def copied(kit: Path, tmp_path: Path) -> Path:
    """The kit, to be damaged."""
    return shutil.copytree(kit, tmp_path / "gpu-kit")


def run(kit: Path, out: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    (out / "bare").mkdir(exist_ok=True)
    (out / "bare" / "sitecustomize.py").write_text(BARE)
    command = ["bash", str(kit / "run.sh"), "--python", sys.executable, "--device", "cpu", "--out", str(out), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(out / "bare"), "PATH": f"{path}{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, cwd=out, env=environment)


def on_stand_in(kit: Path, folder: Path) -> str:
    """What tests/fake_cuda/launch_kit.py says of the kit."""
    fake = ROOT / "tests" / "fake_cuda"
    script = """
import subprocess, sys
from pathlib import Path
import run
launch = Path(run.__file__).with_name("launch_kit.py")
sys.exit(subprocess.run([sys.executable, launch, sys.argv[1]], env=run.stand_in(Path(sys.argv[2]))).returncode)
"""
    command = [sys.executable, "-c", script, str(kit), str(folder)]
    done = subprocess.run(command, cwd=fake, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def change(kit: Path, change_case: Any) -> None:
    """Edit the kit's cases, and vouch for them."""
    file = kit / "kernels" / "cases.json"
    kept = json.loads(file.read_text())
    for case in kept["cases"]:
        change_case(case)
    file.write_text(json.dumps(kept))
    write_sums(kit / "kernels")


def test_everything_in_order_with_the_table_last(kit: Path, tmp_path: Path) -> None:
    done = run(kit, tmp_path, "--quick")
    assert done.returncode == 0, done.stderr
    found = results(tmp_path)
    machine = found["machine"]
    assert machine["device"] == "cpu" and machine["versions"]["torch"] and machine["date"] and "cache" in machine["method"]
    assert "--quick" in found["command"] and found["target"] == "cpu" and found["remarks"] == []
    # Two programs, the second in four directions, at four sizes each.
    assert len(found["correctness"]) == (1 + 4) * 4 and all(r["ok"] for r in found["correctness"])
    assert {r["result"] for r in found["cgspn"]} == {"features", "pooled"} and all(r["ok"] for r in found["cgspn"])
    before, after = found["ceilings"]
    assert before["copy"]["bytes_per_second"] > 0 and set(after["matmul"]) == {"float32", "float16", "bfloat16"}
    assert len(found["bench"]) == 1 + 4 + 1
    for row in found["bench"]:
        assert 0 < row["seconds"]["p10"] <= row["seconds"]["median"] <= row["seconds"]["p90"]
    lines = done.stdout.splitlines()
    assert lines[0].startswith("kernels: 20 results by route C, 0 wrong, 0 failed, worst error 0.")
    assert lines[-1] == f"written: {tmp_path / 'results.json'}" and any(line.startswith("norm.layer_norm") for line in lines)


def test_stages_and_programs_can_be_chosen(kit: Path, tmp_path: Path) -> None:
    assert run(kit, tmp_path, "--only", "correctness,norm.layer_norm").returncode == 0
    found = results(tmp_path)
    assert {r["program"] for r in found["correctness"]} == {"norm.layer_norm"} and not {"cgspn", "bench"} & set(found)
    assert run(kit, tmp_path, "--only", "norm.layer_norm", "--quick").returncode == 0
    assert len(results(tmp_path)["bench"]) == 1
    done = run(kit, tmp_path, "--only", "bnech")
    assert (
        done.returncode == 2 and "the stages are correctness, cgspn, bench, memcheck, tests; the programs norm" in done.stderr
    )


def test_a_wrong_kernel_is_exit_code_3_and_alone_is_not_timed(copied: Path, tmp_path: Path) -> None:
    change(copied, lambda case: case["attrs"].update(eps=0.1) if "eps" in case["attrs"] else None)  # the oracle will differ
    done = run(copied, tmp_path, "--quick")
    assert done.returncode == 3, done.stderr
    found = results(tmp_path)
    wrong = [r for r in found["correctness"] if not r["ok"]]
    assert {r["program"] for r in wrong} == {"norm.layer_norm"} and {r["why"] for r in wrong} == {"out of tolerance"}
    assert {r["program"] for r in found["bench"]} == {"scan.gspn_gates", "cgspn:tiny"}
    assert "norm.layer_norm eps=0.1 float32" in done.stdout


def test_a_kernel_that_kills_its_process_fails_alone(copied: Path, tmp_path: Path) -> None:
    symbols: list[str] = []

    def killing(case: dict[str, Any]) -> None:
        if case["attrs"].get("direction") == "b2t":
            case["library"] = "killing.so"
            symbols.append(case["symbol"])

    source = 'extern "C" int __tvm_ffi_%s(void*, const void*, int, void*) { __builtin_trap(); }'
    change(copied, killing)
    (tmp_path / "killing.cc").write_text(source % symbols[0])
    library = copied / "kernels" / "killing.so"
    subprocess.run(["c++", "-shared", "-fPIC", str(tmp_path / "killing.cc"), "-o", str(library)], check=True)
    write_sums(copied / "kernels")
    done = run(copied, tmp_path, "--quick")
    assert done.returncode == 1, done.stderr
    found = results(tmp_path)
    failed = [r for r in found["correctness"] if not r["ok"]]
    assert len(failed) == 4 and all(r["attrs"]["direction"] == "b2t" and "the process died: SIG" in r["why"] for r in failed)
    assert len(found["correctness"]) == 20 and all(r["ok"] for r in found["cgspn"]) and len(found["bench"]) == 1 + 3 + 1
    assert "kernels: 20 results by route C, 0 wrong, 4 failed" in done.stdout


def test_a_race_and_a_result_not_written_are_mismatches(kit: Path) -> None:
    script = """
import sys
from pathlib import Path
import torch
from gpu import correctness
from gpu.kernels import Kernels
kernels = Kernels(Path(sys.argv[1]), "cpu")
case, right, calls = kernels.cases[0], kernels.call, []
def unstable(case, arrays):
    arrays = list(arrays)
    def call():
        right(case, arrays)()
        calls.append(case)
        if len(calls) % 2:
            flat = arrays[-1].view(-1)
            flat[0] = torch.nextafter(flat[0], torch.tensor(9.0))
    return call
def whys():
    return {row["why"] for row in correctness.check(kernels, case, case.checked[0])}
kernels.call = unstable
assert whys() == {"another run gave other bits: a race"}
kernels.call = lambda case, arrays: lambda: None
assert whys() == {"out of tolerance"}
"""
    subprocess.run([sys.executable, "-c", script, str(kit)], cwd=kit, check=True)


def test_a_damaged_kit_is_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "kernels" / "norm.layer_norm-0.so").write_bytes(b"\x7fELF")
    done = run(copied, tmp_path, "--only", "correctness")
    assert done.returncode == 1 and "BundleError" in done.stdout


def test_the_memory_checker_wraps_the_worker_and_its_verdict_counts(kit: Path, tmp_path: Path) -> None:
    assert "no compute-sanitizer on PATH" in run(kit, tmp_path, "--only", "memcheck").stderr
    tool = tmp_path / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    for code in (0, 86):
        # Stands for the tool: runs what it is given, says how, and ends as the real one does after errors.
        tool.write_text(f'#!/bin/bash\necho "$PYTORCH_NO_CUDA_MEMORY_CACHING $*" >{tmp_path}/given\n"${{@:4}}"\nexit {code}\n')
        tool.chmod(0o755)
        done = run(kit, tmp_path, "--only", "memcheck", path=f"{tool.parent}:")
        assert (tmp_path / "given").read_text().startswith("1 --tool=memcheck --error-exitcode=86 --log-file=")
        rows = results(tmp_path)["memcheck"]
        # Each kernel once, the smallest encoder's two results, and the tool's own word where it found something.
        assert done.returncode == (1 if code else 0) and len(rows) == 5 + 2 + (1 if code else 0)
        assert all(r["ok"] for r in rows[:7])
    assert "compute-sanitizer ended with exit code 86" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_device_tests_are_skipped_without_a_device(kit: Path, tmp_path: Path) -> None:
    done = run(kit, tmp_path, "--only", "tests")
    skipped = re.search(r"^(\d+) skipped", done.stdout, re.MULTILINE)
    assert skipped and int(skipped[1]) > 11 + 40 and "passed" not in done.stdout, done.stdout + done.stderr


def test_a_kit_for_cuda_holds_machine_code_by_both_routes(tmp_path: Path) -> None:
    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(f"no CUDA compiler anywhere: {missing}")
    kit = pack(tmp_path / "gpu-kit", "cuda:sm_90a", ("norm.layer_norm",), ("float32", "bfloat16"), candidates=1, wheels=False)
    kept = json.loads((kit / "kernels" / "cases.json").read_text())
    assert [(c["dtype"], c["default"], c["route"], c["library"]) for c in kept["cases"]] == [
        ("float32", True, "C", "norm.layer_norm-0.so"),
        ("bfloat16", True, "C", "norm.layer_norm-0.so"),
        ("bfloat16", False, "C", "norm.layer_norm-1.so"),
        ("float32", True, "B", "packed.so"),
    ]
    assert kept["remarks"] == []  # nothing spills, nothing is left out
    for library in (kit / "kernels").glob("*.so"):
        assert {i.arch for i in fatbin.images(library.read_bytes())} == {"sm_90a"}
    assert sorted(f.name for f in (kit / "lib").iterdir()) == ["libtvm_runtime.so", "libtvm_runtime_cuda.so"]
    assert {f.name for f in (kit / "bundles").iterdir()} == {f"cgspn-tiny-{d}.treadle" for d in ("float32", "bfloat16")}
    assert json.loads((kit / "reports" / "norm.layer_norm-0-sm_90a.json").read_text())
    assert not list(kit.glob("bundles/*/sources"))
    # Everything is launched on the stand-in device: four kernels, each at four sizes that are checked and one that is timed.
    assert re.match(r"20 launches of kernels, [1-9]\d+ of encoders", on_stand_in(kit, tmp_path))
    # Nothing of the compiler is needed to see that this machine has no such device.
    done = run(kit, tmp_path, "--only", "correctness", "--device", "cuda:0")
    assert done.returncode == 1 and done.stderr.startswith("run.sh: there is no GPU here"), done.stderr


def test_a_kit_too_large_to_carry_is_refused(tmp_path: Path) -> None:
    script = f"""
import gpu.pack
from pathlib import Path
gpu.pack.LIMIT = 1 << 10
gpu.pack.pack(Path({str(tmp_path / "kit")!r}), "cpu", ("norm.layer_norm",), (), wheels=False)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "is too large to carry" in done.stderr and "expected at most 1024 B" in done.stderr


def test_the_wheels_install_offline_on_the_other_python(tmp_path: Path) -> None:
    script = f"from gpu.pack import _wheels; from pathlib import Path; _wheels(Path({str(tmp_path / 'wheels')!r}))"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    tags = {wheel.stem.split("-", 2)[2] for wheel in (tmp_path / "wheels").iterdir()}
    assert all(re.fullmatch(r"py[23.py]*-none-any|cp312-cp312-.*x86_64|cp3\d+-abi3-.*x86_64", tag) for tag in tags), tags
    target = ["--python-version=3.12", "--platform=manylinux_2_28_x86_64", "--platform=manylinux_2_17_x86_64"]
    offline = ["--no-index", f"--find-links={tmp_path / 'wheels'}", "--only-binary=:all:", f"--target={tmp_path / 'site'}"]
    # pip matches platforms by name: the machine's own would include all that lie below it.
    target += [f"--platform={p}" for p in ("manylinux_2_27_x86_64", "manylinux2014_x86_64")]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *offline, *target, "treadle"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "treadle" / "runtime" / "session.py").is_file()
