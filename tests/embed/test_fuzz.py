"""libFuzzer on the readers of a bundle's text, under ASan and UBSan: 0 findings."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tvm_ffi

HERE = Path(__file__).parent
CLANG = shutil.which("clang++")


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory) -> Path:
    program = tmp_path_factory.mktemp("fuzz") / "fuzz"
    flags = ["-std=c++17", "-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
    where = [f"-I{HERE.parents[1]}/runtime/cpp/include", f"-isystem{tvm_ffi.libinfo.find_include_path()}"]
    where += [f"-isystem{tvm_ffi.libinfo.find_dlpack_include_path()}"]
    subprocess.run([CLANG, *flags, *where, HERE / "fuzz.cc", "-o", program], check=True)
    return program


def seeds(good: Path, folder: Path) -> Path:
    """One good text for each reader, behind the byte that chooses it."""
    folder.mkdir()
    weights = {"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "__metadata__": {"a": "\u00e9\U0001f600"}}
    header = json.dumps(weights).encode()
    texts = (
        (good / "manifest.json").read_bytes(),
        len(header).to_bytes(8, "little") + header + bytes(16),
        b"".join((good / "SHA256SUMS").read_bytes().splitlines(keepends=True)[:-1]),
        b"max(N*(H//14)*4, (N-1)%3 + min(H, 2))",
    )
    for number, text in enumerate(texts):
        (folder / str(number)).write_bytes(bytes([number]) + text)
    return folder


@pytest.mark.skipif(CLANG is None, reason="libFuzzer comes with clang++ (Debian: apt-get install clang)")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds", [30, pytest.param(600, marks=pytest.mark.long)])
def test_no_text_breaks_a_reader(fuzzer, small, tmp_path, capsys, seconds):
    corpus = seeds(small / "good.treadle", tmp_path / "corpus")
    options = [f"-max_total_time={seconds}", "-max_len=20000", "-timeout=10", "-print_final_stats=1"]
    done = subprocess.run([fuzzer, *options, corpus], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = int(re.search(r"number_of_executed_units: (\d+)", done.stderr)[1])
    found = int(re.search(r"new_units_added: *(\d+)", done.stderr)[1])
    with capsys.disabled():
        print(f"\n{runs} texts fuzzed in {seconds} s, {found} of them reached new code: 0 findings")
    assert found > 100  # it does get past the first byte
