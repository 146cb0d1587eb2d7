"""How the kit hands out work and sums up: without kernels, without a device, within seconds."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RUN = ROOT / "gpu" / "run.sh"
#: A worker whose jobs are what may happen on a device.
WORKER = """
import json, os, sys, time
for line in sys.stdin:
    job = json.loads(line)
    answer = {"broken": False, "rows": [{"ok": True, "pid": os.getpid()}]}
    match job["do"]:
        case "raise": answer = {"broken": False, "failed": "RuntimeError: refused"}
        case "fault": answer = {"broken": True, "failed": "RuntimeError: an illegal memory access was encountered"}
        case "die": print("what it said last", file=sys.stderr, flush=True); os.abort()
        case "hang": time.sleep(60)
    print(json.dumps(answer), flush=True)
    if answer["broken"]:
        os._exit(1)
"""


def kit_module(name: str) -> ModuleType:
    """A module of the kit, which is no part of the package and is loaded from its file."""
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module(f"gpu.{name}")
    finally:
        sys.path.remove(str(ROOT))


@pytest.fixture
def workers(tmp_path: Path) -> Any:
    made = kit_module("jobs").Workers([sys.executable, "-c", WORKER], tmp_path / "worker.log", limit=5)
    yield made
    made.close()


def do(workers: Any, what: str) -> dict[str, Any]:
    (row,) = workers.do(kit_module("jobs").Job(what, "title", head={"program": "p"}))
    return row


def test_jobs_share_a_worker_until_it_dies(workers: Any) -> None:
    first = do(workers, "fine")["pid"]
    assert do(workers, "fine")["pid"] == first
    assert do(workers, "raise") == {"program": "p", "ok": False, "failed": True, "why": "RuntimeError: refused"}
    assert do(workers, "fine")["pid"] == first
    assert do(workers, "fault")["why"] == "RuntimeError: an illegal memory access was encountered"
    second = do(workers, "fine")["pid"]
    assert second != first
    assert do(workers, "die")["why"] == "the process died: SIGABRT; what it said last"
    third = do(workers, "fine")["pid"]
    assert third != second
    workers.limit = 0.5
    assert do(workers, "hang")["why"] == "ran longer than 0.5 s"
    workers.limit = 5
    assert do(workers, "fine")["ok"]


#: A device that hangs for good after a kernel: every later process finds it gone.
GONE = """
import json, os, pathlib, sys
gone = pathlib.Path(sys.argv[1])
for line in sys.stdin:
    if json.loads(line)["do"] == "check_kernel":
        gone.touch()
        os.abort()
    answer = {"failed": "DeviceError: gone"} if gone.exists() else {"rows": [{"name": "a card"}]}
    print(json.dumps({"broken": False, **answer}), flush=True)
"""


def test_a_run_stops_when_the_device_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases, run = kit_module("cases"), kit_module("__main__").Run
    (tmp_path / "bundles" / "a.treadle").mkdir(parents=True)
    (tmp_path / "kernels").mkdir()
    work = cases.Work({"N": 1}, 4, 0)
    case = cases.Case("a.b", "float32", {}, "s", {}, True, "C", "k.so", "f", (), (), (work, work), work)
    cases.write(tmp_path / "kernels", "cuda:sm_90a", [case, case], [])
    monkeypatch.setattr(run, "_command", lambda self: [sys.executable, "-c", GONE, str(tmp_path / "gone")])
    assert run(tmp_path, tmp_path, "cuda:0", False, [])(("correctness", "cgspn", "bench")) == 1
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["correctness"]) == 1 and "SIGABRT" in found["correctness"][0]["why"] and "cgspn" not in found
    assert "stopped after a.b float32 at N=1 the device answers no more: DeviceError: gone" in capsys.readouterr().out


def row(ok: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "program": "norm.layer_norm", "dtype": "float32", "attrs": {"eps": 1e-6}, "sizes": {"R": 3}, "route": "C",
        "default": True, "error": 1.0, "bound": 2.0, "ok": ok, "why": "" if ok else "out of tolerance", **more,
    }  # fmt: skip


def results(**stages: Any) -> dict[str, Any]:
    return {"remarks": [], **stages}


def test_exit_codes() -> None:
    code = kit_module("report").exit_code
    failed = row(False, failed=True)
    assert code(results(correctness=[row()], bench=[row()])) == 0
    assert code(results(correctness=[row(), failed])) == 1
    assert code(results(cgspn=[row(False)], bench=[failed])) == 3
    assert code(results(bench=[failed])) == 1
    assert code(results(memcheck=[failed])) == 1


def test_the_table_names_every_failure_and_fits_a_screen() -> None:
    seconds = {"median": 1e-3, "p10": 9e-4, "p90": 2e-3}
    rate = {"bytes_per_second": 1.5e12, "flops_per_second": 2e12}
    ceiling = {"copy": {"bytes_per_second": 3e12}, "matmul": {"float32": {"flops_per_second": 4e13}}}
    found = results(
        correctness=[row(), row(route="B"), row(False, why="out of tolerance"), row(False, failed=True, why="SIGSEGV")],
        bench=[row(seconds=seconds, **rate), row(False, failed=True, why="ran longer than 120 s")],
        ceilings=[ceiling, ceiling],
        remarks=[],
    )
    lines = kit_module("report").table({**found, "remarks": [{"kernel": "scan.gspn_adjoint", "why": "spills"}]})
    assert lines[0] == "when packed: scan.gspn_adjoint: spills"
    assert lines[1] == "kernels: 4 results by routes B and C, 1 wrong, 1 failed, worst error 0.50 of its bound"
    assert lines[2] == "  norm.layer_norm eps=1e-06 float32 at R=3: out of tolerance" and lines[3].endswith("SIGSEGV")
    assert lines[4] == "torch, before: copy 3000 GB/s; product float32 40.0 TFLOP/s" and lines[5].startswith("torch, after")
    (timed,) = [line for line in lines if "1000.0" in line]
    assert timed.split()[-6:] == ["1000.0", "2000.0", "1500", "50%", "2.00", "5%"]
    assert lines[-1].endswith("ran longer than 120 s")
    many = kit_module("report").table(results(correctness=[row(False)] * 50))
    assert len(many) == 22 and many[-1] == "  and 30 more"


def test_results_are_whole_or_absent(tmp_path: Path) -> None:
    report, file = kit_module("report"), tmp_path / "results.json"
    report.save({"a": 1}, file)
    with pytest.raises(ValueError, match="JSON"):  # NaN is no JSON: rows hold it as text
        report.save({"a": float("nan")}, file)
    assert json.loads(file.read_text()) == {"a": 1}


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(RUN), *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--out DIR is missing"),
        (("--fast",), "unknown argument --fast"),
        (("--out",), "--out needs a value"),
        (("--out", "x", "--device", "gpu:0"), "--device gpu:0 is neither cuda:N nor cpu"),
    ],
)
def test_arguments_of_the_script(arguments: tuple[str, ...], says: str) -> None:
    done = script(*arguments)
    assert done.returncode == 2 and says in done.stderr and "run.sh --out DIR [--only" in done.stderr


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="an NVIDIA driver is here")
def test_without_a_gpu_one_sentence_and_nothing_made(tmp_path: Path) -> None:
    (tmp_path / "gpu").symlink_to(ROOT / "gpu")
    (tmp_path / "run.sh").symlink_to(RUN)
    done = subprocess.run(["bash", str(tmp_path / "run.sh"), "--out", str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "run.sh: there is no GPU here: no NVIDIA driver (libcuda.so.1) is installed\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gpu", "run.sh"]


def test_the_machines_python_must_suit_the_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks = kit_module("machine").no_python
    assert lacks((3, 13, 1)) == "the kit's wheels are for Python 3.12, and python3 is 3.13"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert lacks((3, 12, 3)) == "python3 has no torch; the kit needs one built for CUDA 13"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert lacks((3, 12, 3)) is None
