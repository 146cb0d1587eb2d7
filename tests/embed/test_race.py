"""Sessions in threads under ThreadSanitizer, by the example that shows them.

The program and the headers in it are instrumented. The bundle's own library is not, nor is libtvm_ffi: races between kernels
inside them stay unseen here, and are held by comparing results, here and in test_embed.py.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tvm_ffi import libinfo

import treadle
from treadle.settings import settings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cpp" / "threads.cc"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    model = treadle.models.build("cgspn", "tiny")
    return treadle.compile(model, target="cpu", seed=0, out=tmp_path_factory.mktemp("race") / "tiny.treadle").path


def threads(source: Path, folder: Path, tiny: Path) -> subprocess.CompletedProcess[str]:
    headers = [f"-I{ROOT}/runtime/cpp/include", "-isystem", libinfo.find_include_path()]
    flags = ["-std=c++17", "-O1", "-g", "-fsanitize=thread", "-pthread"]
    program = folder / "threads"
    subprocess.run([settings.cxx, *flags, *headers, source, "-o", program, "-ldl"], check=True)
    # Through the environment: dlopen is the sanitizer's here, which does not look along this program's rpath.
    more = {"LD_LIBRARY_PATH": str(Path(libinfo.find_libtvm_ffi()).parent), "TREADLE_NUM_THREADS": "2"}
    # Where the kernel spreads a program over more of the address space than ThreadSanitizer expects, it ends at its start;
    # containers may forbid to ask for a fixed place.
    fixed = ["setarch", "-R"] if subprocess.run(["setarch", "-R", "true"], capture_output=True).returncode == 0 else []
    return subprocess.run([*fixed, program, tiny, "8", "10"], env={**os.environ, **more}, capture_output=True, text=True, timeout=300)


@pytest.mark.long
def test_sessions_in_threads_do_not_race(tiny, tmp_path):
    done = threads(EXAMPLE, tmp_path, tiny)
    assert (done.returncode, done.stdout, done.stderr) == (0, "8 threads, 10 runs each, 0 different\n", "")


@pytest.mark.long
def test_a_planted_race_is_found(tiny, tmp_path):
    """The example, counting without an atomic."""
    text = EXAMPLE.read_text()
    for atomic, plain in (("std::atomic<int> different{0}", "int different = 0"), ("different.load()", "different")):
        assert atomic in text
        text = text.replace(atomic, plain)
    (tmp_path / "planted.cc").write_text(text)
    done = threads(tmp_path / "planted.cc", tmp_path, tiny)
    assert done.returncode and "WARNING: ThreadSanitizer: data race" in done.stderr
