"""Sessions over a hand-written library, and the interpreter of the same plan."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from treadle.errors import ArgumentError, BoundsError, BundleError, DeviceError, UnknownNameError
from treadle.runtime import Bundle, Session, library, load
from treadle.runtime.bundle import write_sums
from treadle.runtime.interpreter import Interpreter, run_plan

GAIN = np.array([1.0, 2.0, 3.0, 0.5], np.float32)  # the weight that conftest.py writes


def image(rows: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)


def reference(x: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    a = x * GAIN
    total = np.zeros(len(x), np.float32)
    for column in range(4):  # the order in which the kernel adds
        total += a[:, column]
    return {"y": a + np.float32(1), "total": total}


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return list(left) == list(right) and all(np.asarray(left[k]).tobytes() == right[k].tobytes() for k in left)


@pytest.mark.parametrize("rows", [1, 2, 7, 64, 0])
def test_session_and_interpreter_equal_the_reference(tiny_built: Path, rows: int) -> None:
    x = image(rows)
    with load(tiny_built) as session:
        assert same(session.run(x=x), reference(x))
        assert same(run_plan(session.bundle, "main", x=x), session.run(x=x))


def test_run_by_name_and_properties(tiny_built: Path) -> None:
    session = load(tiny_built)
    assert list(session.entries) == ["main"] and session.manifest.name == "tiny"
    assert session.arena_bytes == 0
    session.run("main", x=image(5))
    assert session.arena_bytes == 80
    assert repr(session) == "<Session tiny on cpu: main>"
    with pytest.raises(UnknownNameError, match=r"unknown entry point: given 'mian'.*Did you mean 'main'"):
        session.run("mian", x=image(5))
    with pytest.raises(ArgumentError, match="entry point's name is not a string: given ndarray"):
        session.run(image(5))  # type: ignore[arg-type]


def test_offset_read_only_and_torch_inputs(tiny_built: Path) -> None:
    torch = pytest.importorskip("torch")
    session = load(tiny_built)
    flat = np.zeros(41, np.float32)
    view = flat[1:].reshape(10, 4)
    view[:] = image(10)
    view.flags.writeable = False
    assert same(session.run(x=view), reference(image(10)))
    results = session.run(x=torch.from_numpy(image(10)))
    assert all(isinstance(result, torch.Tensor) for result in results.values())
    assert same(results, reference(image(10)))


def test_out_receives_the_results(tiny_built: Path) -> None:
    session = load(tiny_built)
    out = {"total": np.empty(3, np.float32), "y": np.empty((3, 4), np.float32)}
    results = session.run(x=image(3), out=out)
    assert results["y"] is out["y"] and results["total"] is out["total"]
    assert same(results, reference(image(3)))


def test_errors_raised_by_the_library_are_ours(tiny_built: Path) -> None:
    session = load(tiny_built)
    x = image(4)
    x[0, 0] = -1
    with pytest.raises(BoundsError, match=r"main: x\[0\] is -1"):
        session.run(x=x)
    x[0, 0] = -2
    for _ in range(50):  # whichever thread runs the last task, its error arrives here
        with pytest.raises(ArgumentError, match="main: raised in the last task"):
            session.run(x=x)
    assert same(session.run(x=image(4)), reference(image(4)))


def test_closed_sessions_say_so(tiny_built: Path) -> None:
    session = load(tiny_built)
    clone = session.clone()
    session.close()
    session.close()
    with pytest.raises(DeviceError, match=r"the Session is closed\. Load the bundle again"):
        session.run(x=image(1))
    with pytest.raises(DeviceError, match="closed"):
        _ = session.arena_bytes
    assert same(clone.run(x=image(1)), reference(image(1)))


def test_sessions_are_freed_when_dropped(tiny_built: Path) -> None:
    session = load(tiny_built)
    finalizer = session._finalizer
    assert finalizer.alive
    del session
    gc.collect()
    assert not finalizer.alive


def test_clones_share_weights_and_run_in_parallel(tiny_built: Path) -> None:
    first = load(tiny_built)
    clones = [first.clone() for _ in range(4)]
    assert all(clone.bundle.weights["gain"] is first.bundle.weights["gain"] for clone in clones)
    wrong: list[int] = []

    def work(session: Session, seed: int) -> None:
        for round_ in range(200):
            x = image(1 + (seed + round_) % 64, seed)
            if not same(session.run(x=x), reference(x)):
                wrong.append(seed)

    # Two threads per session: calls on one session wait for each other.
    threads = [threading.Thread(target=work, args=(clones[i % 4], i)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_bundle_compiled_again_in_place_is_seen(tiny: Path, compile_library: Callable[..., None]) -> None:
    old = load(tiny)
    shutil.rmtree(tiny / "lib")  # a new inode under the old name, as an atomic publish leaves it
    (tiny / "lib").mkdir()
    compile_library(tiny / "lib" / "cpu.so", "-DADDEND=10.0f")
    write_sums(tiny)
    new = load(tiny)
    assert np.array_equal(new.run(x=image(2))["y"], image(2) * GAIN + np.float32(10))
    assert same(old.run(x=image(2)), reference(image(2)))


def test_a_library_that_is_none(tiny: Path) -> None:
    (tiny / "lib/cpu.so").write_bytes(b"not an ELF file at all")
    write_sums(tiny)
    with pytest.raises(BundleError, match=r"cpu.so: the system cannot load this library: given .*treadle compile"):
        load(tiny)


def test_a_library_that_lacks_an_entry(tiny: Path, compile_library: Callable[..., None]) -> None:
    for file, old, new in (("manifest.json", '"name": "main"', '"name": "other"'), ("plan.json", '"main":', '"other":')):
        (tiny / file).write_text((tiny / file).read_text().replace(old, new))
    compile_library(tiny / "lib" / "cpu.so")
    write_sums(tiny)
    with pytest.raises(BundleError, match="does not export treadle_run_other"):
        load(tiny)


@pytest.mark.parametrize(("file", "old", "new"), [("manifest", '"hi": 64', '"hi": 65'), ("plan", "N*4*4", "N*4*5")])
def test_a_library_beside_another_manifest_or_plan(tiny: Path, file: str, old: str, new: str) -> None:
    """Each well-formed, and SHA256SUMS written anew over it: only the library knows what it was made for."""
    text = (tiny / f"{file}.json").read_text()
    assert old in text
    (tiny / f"{file}.json").write_text(text.replace(old, new))
    write_sums(tiny)
    with pytest.raises(BundleError, match=rf"cpu.so: the library was made for another {file}.json: given sha256 [0-9a-f]+"):
        load(tiny)


def test_a_library_of_another_abi(tiny: Path, compile_library: Callable[..., None]) -> None:
    header = (Path(library.__file__).parent / "cpp" / "host.h").read_text()
    assert f"kAbiVersion = {library.ABI};" in header
    compile_library(tiny / "lib" / "cpu.so", "-DABI=7")
    write_sums(tiny)
    with pytest.raises(BundleError, match="speaks another ABI than this runtime: given version 7, expected version 2"):
        load(tiny)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('["N", "4"]', '["N", "5"]', r"values.x.shape has not the manifest's elements: given \['N', '5'\]"),
        ('"dtype": "float32"', '"dtype": "float16"', "values.x.dtype is not the manifest's: given float16, expected float32"),
        ('"of": "total"', '"of": "y"', r"values.total.shape has not the manifest's elements"),
        (
            '"total": {"shape": ["N"], "dtype": "float32", "place": "output", "of": "total"}',
            '"u": {"shape": ["N"], "dtype": "float32", "place": "arena", "of": "a0"}',
            "lacks outputs of the manifest: given",
        ),
    ],
)
def test_a_plan_that_contradicts_the_manifest_is_refused(tiny: Path, old: str, new: str, words: str) -> None:
    text = (tiny / "plan.json").read_text()
    assert old in text
    (tiny / "plan.json").write_text(text.replace(old, new, 1))
    write_sums(tiny)
    with pytest.raises(BundleError, match=words):
        load(tiny)


def test_bad_thread_count_is_refused_at_load(tiny_built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_NUM_THREADS", "many")
    with pytest.raises(ArgumentError, match="TREADLE_NUM_THREADS"):
        load(tiny_built)


def test_interpreter_shows_every_step(tiny_built: Path) -> None:
    bundle, x = Bundle.open(tiny_built, target="cpu"), image(3)
    seen: list[tuple[str, list[str]]] = []
    interpreter = Interpreter(bundle)

    def watch(node: str, arrays: dict[str, Any]) -> None:
        seen.append((node, list(arrays)))
        if node == "scale":
            assert np.array_equal(arrays["a"], x * GAIN)
            assert arrays["a"].ctypes.data % 256 == 0
            assert arrays["w.gain"] is bundle.weights["gain"]

    assert same(interpreter.run({"x": x}, watch), reference(x))
    assert seen == [("scale", ["x", "w.gain", "a"]), ("add", ["a", "y"]), ("sum", ["a", "total"])]
    with pytest.raises(UnknownNameError, match="unknown entry point"):
        run_plan(bundle, "mian", x=x)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"of": "gain"', '"of": "gian"', r"entries.main.values.w.gain.of is no weight of this entry: given gian"),
        ('"place": "arena"', '"place": "shelf"', "place is not a place: given shelf"),
        ('["a", "y"]', '["b", "y"]', r"steps\[1\].args uses a value that is not defined: given 'b'"),
        ('"N*4*4"', '"Q*4*4"', r"arena\[0\].bytes uses an unknown dim: given Q"),
        ('"N*4*4"', '"N*4"', "value a does not fit its arena region a0: given 48 B, expected at most 12 B"),
        ('"tiny_scale"', '"tiny_scall"', "the library does not export tiny_scall"),
        ('"schema": 1', '"schema": 2', "schema is out of range"),
    ],
)
def test_a_wrong_plan_is_refused(tiny: Path, old: str, new: str, words: str) -> None:
    text = (tiny / "plan.json").read_text()
    assert old in text
    (tiny / "plan.json").write_text(text.replace(old, new, 1))
    write_sums(tiny)
    with pytest.raises(BundleError, match=words):
        run_plan(Bundle.open(tiny), "main", x=image(3))


def test_runtime_needs_no_compiler(tiny_built: Path) -> None:
    script = f"""
import sys, numpy, treadle.runtime
session = treadle.runtime.load({str(tiny_built)!r})
session.run(x=numpy.ones((2, 4), "float32"))
import treadle.runtime.interpreter
treadle.runtime.interpreter.run_plan(session.bundle, x=numpy.ones((2, 4), "float32"))
parts = ("treadle.ir", "treadle.schedules", "treadle.codegen", "treadle.models")
bad = [name for name in sys.modules if name == "tvm" or name.startswith(("tvm.", *parts))]
assert not bad, bad
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_load_run_unload_many_times_in_a_fresh_process(tiny_built: Path) -> None:
    """Unloading joins the pool: no thread is left, and forking works before and after."""
    script = f"""
import gc, os, threading, numpy, treadle.runtime
def tasks(): return len(os.listdir("/proc/self/task"))
x = numpy.ones((64, 4), "float32")
bundle = treadle.runtime.Bundle.open({str(tiny_built)!r})
def once():
    session = treadle.runtime.Session(bundle)
    session.run(x=x)
    assert tasks() == before + 2, tasks()
    child = os.fork()
    session.run(x=x)
    if child == 0: os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
before = tasks()
for _ in range(30): once()
gc.collect()
assert tasks() <= before, (before, tasks())
assert {str(tiny_built / "lib")!r} not in open("/proc/self/maps").read()
"""
    # numpy's OpenBLAS ends its own threads on a fork, which would spoil the count.
    threads = {"TREADLE_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | threads)


def test_overhead_of_a_call(tiny_built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session, x = load(tiny_built), image(2)
    torch_x = pytest.importorskip("torch").from_numpy(x)
    out = session.run(x=x)
    best = {
        label: min(timeit.repeat(call, number=1000, repeat=5)) * 1000
        for label, call in {
            "numpy": lambda: session.run(x=x),
            "numpy, out=": lambda: session.run(x=x, out=out),
            "torch": lambda: session.run(x=torch_x),
        }.items()
    }
    with capsys.disabled():
        print("\nSession.run, 1 input, 2 outputs:", ", ".join(f"{k} {v:.1f} us" for k, v in best.items()))
    assert best["numpy"] < 200  # a guard against an accident, not a benchmark


def test_interpreter_shows_memory_that_no_step_wrote(tiny: Path) -> None:
    plan = json.loads((tiny / "plan.json").read_text())
    del plan["entries"]["main"]["steps"][0]
    (tiny / "plan.json").write_text(json.dumps(plan))
    write_sums(tiny)
    assert np.isnan(run_plan(Bundle.open(tiny), x=image(3))["y"]).all()
