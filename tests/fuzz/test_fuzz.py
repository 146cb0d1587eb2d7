"""The C++ readers under libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer.

Each target reads any bytes; a treadle::Error is right, and a finding is anything that ends the process: a signal, another
exception, a sanitizer's report, 10 s over one input, 2 GiB of memory. corpus/<target>/ holds where it starts from: files of
real bundles (scan.gspn, a small graph, some of cgspn:tiny) and files with one evil each, named after it. What a finding was
found with goes there too, once it is mended.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tvm_ffi import libinfo

HERE = Path(__file__).parent
HEADERS = HERE.parents[1] / "runtime" / "cpp" / "include"

#: Seconds for each target: 30 in all in CI, ten minutes in all in the long tier.
TARGETS = {"manifest": (11, 210), "safetensors": (11, 210), "plan": (5, 120), "sums": (3, 60)}

Build = Callable[[Path], Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Build:
    """build(source): the target, built."""
    if not (clang := shutil.which("clang++")):
        pytest.skip("clang++ with libFuzzer is not installed (Debian: apt-get install clang)")

    def built(source: Path) -> Path:
        program = tmp_path_factory.mktemp("fuzz") / source.stem
        flags = ["-std=c++17", "-O1", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
        flags += ["-Wall", "-Wextra", "-Wshadow", "-Werror"]
        headers = [f"-I{HERE}", f"-I{HEADERS}", "-isystem", libinfo.find_include_path()]
        done = subprocess.run([clang, *flags, *headers, source, "-o", program], capture_output=True, text=True)
        if "libclang_rt" in done.stderr:
            pytest.skip("clang++ is installed without its sanitizers (Debian: apt-get install libclang-rt-14-dev)")
        assert done.returncode == 0, done.stderr
        return program

    return built


def fuzz(program: Path, seeds: Path, seconds: int, folder: Path) -> str:
    """What the run printed; fails with the finding. New inputs are kept under `folder`, and forgotten."""
    (folder / "grown").mkdir()
    limits = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=10", "-rss_limit_mb=2048"]
    command = [program, *limits, f"-dict={HERE}/json.dict", f"-artifact_prefix={folder}/", folder / "grown", seeds]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds + 120)
    assert done.returncode == 0, done.stderr[-8000:]
    return done.stderr


def run_target(build: Build, target: str, seconds: int, folder: Path) -> None:
    said = fuzz(build(HERE / f"read_{target}.cc"), HERE / "corpus" / target, seconds, folder)
    runs = re.search(r"^Done (\d+) runs in (\d+) second", said, re.M)
    assert runs and int(runs[1]) > 1000, said[-4000:]
    print(f"{target}: {runs[1]} runs in {runs[2]} s, 0 findings")


@pytest.mark.parametrize("target", TARGETS)
def test_readers_refuse_any_bytes(build, target, tmp_path):
    run_target(build, target, TARGETS[target][0], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_readers_refuse_any_bytes_for_long(build, target, tmp_path):
    run_target(build, target, TARGETS[target][1], tmp_path)


# Faults of the kinds that a reader may have, each behind a byte that the fuzzer must find.
PLANTED = {
    "heap-buffer-overflow": "volatile uint8_t next = data[size]; (void)next;",
    "signed integer overflow": "volatile int64_t at = INT64_MAX; at = at + 1;",
    "deadly signal": 'throw std::out_of_range("untyped");',
}


@pytest.mark.parametrize("said", PLANTED)
def test_planted_faults_are_found(build, said, tmp_path):
    source, seeds = tmp_path / "planted.cc", tmp_path / "seeds"
    seeds.mkdir()
    (seeds / "one").write_bytes(b"aa")
    source.write_text(f"""
        #include <stdexcept>
        #include "target.h"
        extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {{
          refusable([&] {{ if (size && data[0] == 'x') {{ {PLANTED[said]} }} }});
          return 0;
        }}""")
    with pytest.raises(AssertionError, match=said):
        fuzz(build(source), seeds, 30, tmp_path)
