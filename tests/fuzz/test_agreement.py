"""The readers in Python and in C++ say the same to every file of the fuzz corpus: accepted, or refused with the same type of error."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tvm_ffi import libinfo

from treadle.errors import TreadleError
from treadle.runtime import strict_json, weights
from treadle.runtime.manifest import Manifest
from treadle.runtime.plan import read_plan
from treadle.runtime.sums import parse_sums
from treadle.settings import settings

HERE = Path(__file__).parent
HEADERS = HERE.parents[1] / "runtime" / "cpp" / "include"
TARGETS = ("manifest", "plan", "safetensors", "sums")

#: JSON values, as text, on which readers like to differ; each is put where a manifest's name, and a passed-over key, stand.
VALUES = {
    "deep enough": "[" * 62 + "]" * 62,
    "a level too deep": "[" * 66 + "]" * 66,
    "half a pair": r'"\ud800"',
    "the other half": r'"x\udc00y"',
    "a whole pair": r'"\ud83d\ude00"',
    "long number": "1" * 1000,
    "longer number": "1" * 1001,
    "infinite": "1e999",
    "twice": '{"a": 1, "a": 1}',
}
#: Size expressions of the dims N and P.
SIZES = (
    "N*4", "(" * 64 + "N" + ")" * 64, "(" * 65 + "N" + ")" * 65, "+".join(["N"] * 300), "+".join(["N"] * 301), "min(N, P)", "min(N, P,)",
    "(min)(N, P)", "min (N,P)", "min", "if", "None", "N if N else P", "007", "00", "-N", "N**2", "N//0", "1//0", "2-3", "9223372036854775807",
    "9223372036854775808", "N not", "N/P", " N ", "", "N\t", "1_0", "0x1", "N(P)", "(N)", "(N)*(3)", "3*N", "max(N,P)%2",
)  # fmt: skip


def python(target: str, file: Path) -> str:
    data = file.read_bytes()
    try:
        if target == "manifest":
            Manifest.from_json(data)
        elif target == "safetensors":
            weights.read_file(file)
        elif target == "sums":
            parse_sums(data, Path("x.treadle"))
        else:
            first, _, second = data.partition(b"\0")
            manifest = Manifest.from_json(first)
            plan = strict_json.parse(second, "plan.json")
            for entry in manifest.entries:
                read_plan(plan, entry, manifest)
    except TreadleError as wrong:
        return type(wrong).__name__
    return "accepted"


@pytest.fixture(scope="module")
def cpp(tmp_path_factory) -> Callable[[str, list[Path]], list[str]]:
    program = tmp_path_factory.mktemp("verdicts") / "verdicts"
    headers = [f"-I{HERE}", f"-I{HEADERS}", "-isystem", libinfo.find_include_path()]
    subprocess.run([settings.cxx, "-std=c++17", "-O1", *headers, HERE / "verdicts.cc", "-o", program, "-ldl", "-pthread"], check=True)

    def verdicts(target: str, files: list[Path]) -> list[str]:
        return subprocess.run([program, target, *files], check=True, capture_output=True, text=True).stdout.splitlines()

    return verdicts


def compare(cpp: Callable[[str, list[Path]], list[str]], target: str, files: list[Path]) -> set[str]:
    """Fails with the files on which the readers differ; returns what they said."""
    found = dict(zip(files, zip((python(target, f) for f in files), cpp(target, files), strict=True), strict=True))
    assert {file.name: pair for file, pair in found.items() if pair[0] != pair[1]} == {}
    return {verdict for verdict, _ in found.values()}


@pytest.mark.parametrize("target", TARGETS)
def test_python_and_cpp_say_the_same_to_the_corpus(cpp, target):
    said = compare(cpp, target, sorted((HERE / "corpus" / target).iterdir()))
    assert "accepted" in said and "BundleError" in said


def test_they_say_the_same_to_json_in_every_place(cpp, tmp_path):
    small = (HERE / "corpus" / "manifest" / "small").read_text()
    assert '"name": "small"' in small
    header = '{"w": {"dtype": "U8", "shape": SHAPE, "data_offsets": [0, 0], "more": MORE}}'
    manifests, tensors = [], []
    for name, value in VALUES.items():
        (file := tmp_path / f"name {name}").write_text(small.replace('"name": "small"', f'"name": {value}'))
        manifests.append(file)
        text = header.replace("SHAPE", "[0]").replace("MORE", value).encode()
        (file := tmp_path / f"more {name}").write_bytes(len(text).to_bytes(8, "little") + text)
        tensors.append(file)
    for shape in ("[0, 9223372036854775807]", "[9223372036854775807, 0]", "[0, 4294967296, 4294967296]", "[0, 2147483648]", "[]", "[0, -1]"):
        text = header.replace("SHAPE", shape).replace("MORE", "0").encode()
        (file := tmp_path / f"shape {shape}").write_bytes(len(text).to_bytes(8, "little") + text)
        tensors.append(file)
    assert compare(cpp, "manifest", manifests) == {"accepted", "BundleError"}
    assert compare(cpp, "safetensors", tensors) == {"accepted", "BundleError"}


def test_they_say_the_same_to_sizes(cpp, tmp_path):
    small = (HERE / "corpus" / "manifest" / "small").read_text()
    where = small.rindex('"N"', 0, small.index('"weights"'))
    files = []
    for i, size in enumerate(SIZES):
        text = small[:where] + '"' + size.replace("\t", "\\t") + '"' + small[where + 3 :]
        (file := tmp_path / f"{i:02} {size[:20]!r}".replace("/", "|")).write_text(text)
        files.append(file)
    assert compare(cpp, "manifest", files) == {"accepted", "BundleError"}
