"""The cache: whole entries or none, whatever happens to writers, files and folders."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from treadle.codegen.cache import Cache, digest


def builder(text="made", log=None):
    def build(folder):
        (folder / "lib").mkdir()
        (folder / "lib" / "x").write_text(text)
        if log is not None:
            log.append(text)

    return build


def test_an_entry_is_built_once_and_then_found(tmp_path):
    cache, log = Cache(tmp_path / "c"), []
    with ExitStack() as keep:
        first, there = cache.get_or_build("k", builder(log=log), keep)
        again, there_now = cache.get_or_build("k", builder(log=log), keep)
    assert (there, there_now, log) == (False, True, ["made"]) and first == again
    assert (first / "lib" / "x").read_text() == "made"


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "extra"])
def test_a_damaged_entry_is_built_again(tmp_path, damage):
    cache = Cache(tmp_path)
    with ExitStack() as keep:
        folder, _ = cache.get_or_build("k", builder("first"), keep)
        victim = folder / "lib" / "x"
        {
            "truncate": lambda: victim.write_text("fir"),
            "flip": lambda: victim.write_text("fisrt"),
            "delete": victim.unlink,
            "extra": lambda: (folder / "y").write_text(""),
        }[damage]()
        assert [sound for _, _, sound in cache.entries()] == [False]
        folder, there = cache.get_or_build("k", builder("second"), keep)
    assert not there and (folder / "lib" / "x").read_text() == "second"


def test_a_failed_build_leaves_nothing(tmp_path):
    def broken(folder):
        (folder / "half").write_text("")
        raise RuntimeError("boom")

    with ExitStack() as keep, pytest.raises(RuntimeError, match="boom"):
        Cache(tmp_path).get_or_build("k", broken, keep)
    assert [f for f in tmp_path.iterdir() if f.is_dir()] == []


def test_a_cache_that_cannot_be_written_is_bypassed(tmp_path):
    (tmp_path / "file").write_text("a cache cannot be a file")
    cache = Cache(tmp_path / "file")
    with ExitStack() as keep:
        folder, there = cache.get_or_build("k", builder(), keep)
        assert not there and (folder / "lib" / "x").read_text() == "made"
    assert not folder.exists()


def test_prune_removes_damaged_entries_abandoned_folders_or_everything(tmp_path):
    cache = Cache(tmp_path)
    with ExitStack() as keep:
        good, _ = cache.get_or_build("good", builder(), keep)
        bad, _ = cache.get_or_build("bad", builder(), keep)
    (bad / "lib" / "x").write_text("!")
    fresh, old = tmp_path / "new.tmp", tmp_path / "old.tmp"
    fresh.mkdir(), old.mkdir()
    os.utime(old, (0, 0))
    assert cache.prune() == ["bad"]
    assert good.is_dir() and fresh.is_dir() and not old.exists()
    assert cache.prune(everything=True) == ["good"]


def test_digest_depends_on_content_and_not_on_order():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


WRITER = """
    import sys, time
    from contextlib import ExitStack
    from pathlib import Path
    from treadle.codegen.cache import Cache

    def build(folder):
        with open(sys.argv[2], "a") as log:
            log.write("built\\n")
        for i in range(20):
            (folder / str(i)).write_text("x" * 1000)
            time.sleep(0.005)

    for key in ("a", "b", "c"):
        with ExitStack() as keep:
            folder, _ = Cache(Path(sys.argv[1])).get_or_build(key, build, keep)
            assert len(list(folder.iterdir())) == 21
"""


def start(tmp_path, count):
    script = tmp_path / "writer.py"
    script.write_text(textwrap.dedent(WRITER))
    return [subprocess.Popen([sys.executable, script, tmp_path / "cache", tmp_path / "log"]) for _ in range(count)]


def test_concurrent_writers_build_each_entry_once(tmp_path):
    assert [p.wait() for p in start(tmp_path, 6)] == [0] * 6
    assert (tmp_path / "log").read_text().count("built") == 3
    assert [sound for _, _, sound in Cache(tmp_path / "cache").entries()] == [True] * 3


def test_killed_writers_leave_no_half_entry_and_no_lock(tmp_path):
    processes = start(tmp_path, 4)
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for p in processes[:2]:
        p.send_signal(signal.SIGKILL)
    assert [p.wait() for p in processes[2:]] == [0, 0]
    assert [p.wait() for p in start(tmp_path, 1)] == [0]
    assert [sound for _, _, sound in Cache(tmp_path / "cache").entries()] == [True] * 3


@pytest.mark.parametrize(
    ("processes", "kernels"),
    [(8, 3), pytest.param(32, 10, marks=pytest.mark.long)],  # the long one compiles for minutes
)
def test_real_kernels_under_fire(processes, kernels):
    command = [sys.executable, Path(__file__).with_name("cache_fire.py"), str(processes), str(kernels)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["killed"] >= 1 and found["failed"] == 0
    assert found["entries"] == found["right"] == kernels and found["half-written"] == 0
    assert found["read-only accepted"] == 1
