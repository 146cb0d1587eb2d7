"""Damaged bundles in C++: each is refused before the library is mapped, with the verdict and the error type of Python."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import treadle
from treadle.errors import TreadleError
from treadle.runtime import Bundle
from treadle.runtime.sums import write_sums

LIBRARY, MANIFEST, WEIGHTS, SUMS = "lib/cpu.so", "manifest.json", "weights.safetensors", "SHA256SUMS"


@pytest.fixture(scope="module")
def probe(programs, small, run) -> Callable[..., list[list[str]]]:
    """probe(bundles...): what a user of each meets, see probe.cc."""

    def probe(*bundles: Path) -> list[list[str]]:
        done = run(programs / "probe", small / "x.raw", small / "y.raw", *bundles)
        assert done.returncode == 0, done.stderr
        lines = [line.split("\t") for line in done.stdout.splitlines()]
        assert len(lines) == len(bundles)
        return lines

    return probe


def flipped(root: Path) -> None:
    data = bytearray((root / LIBRARY).read_bytes())
    data[len(data) // 2] ^= 1
    (root / LIBRARY).write_bytes(data)


def truncated(root: Path) -> None:
    os.truncate(root / WEIGHTS, (root / WEIGHTS).stat().st_size - 1)


def digest_changed(root: Path) -> None:
    text = (root / SUMS).read_text()
    (root / SUMS).write_text(("1" if text[0] == "0" else "0") + text[1:])


def set_in(root: Path, key: str, value: object) -> None:
    document = json.loads((root / MANIFEST).read_text())
    document[key] = value
    (root / MANIFEST).write_text(json.dumps(document))
    write_sums(root)


def newer(root: Path) -> None:
    set_in(root, "producer", {"treadle": "9.8.7"})
    set_in(root, "schema", 2)


def deep(root: Path) -> None:
    (root / MANIFEST).write_text("[" * 100_000)
    write_sums(root)


def offsets(change: Callable[[dict[str, dict[str, list[int]]]], None]) -> Callable[[Path], None]:
    def changed(root: Path) -> None:
        data = (root / WEIGHTS).read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        (root / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        write_sums(root)

    return changed


def wrapping(header) -> None:
    """Offsets and a shape whose products and sums come out right in wrapping 64-bit arithmetic."""
    header["norm.bias"] |= {"shape": [2**62 + 32], "data_offsets": [0, 128]}


def far(header) -> None:
    header["norm.bias"]["data_offsets"] = [2**63 - 129, 2**63 - 1]


def overlapping(header) -> None:
    for name in ("norm.weight", "norm.bias"):
        header[name]["data_offsets"] = [0, 128]


def huge_header(root: Path) -> None:
    data = (root / WEIGHTS).read_bytes()
    (root / WEIGHTS).write_bytes((2**64 - 8).to_bytes(8, "little") + data[8:])
    write_sums(root)


def linked(root: Path) -> None:
    (root / LIBRARY).rename(root.parent / "elsewhere.so")
    (root / LIBRARY).symlink_to(root.parent / "elsewhere.so")


def piped(root: Path) -> None:
    (root / MANIFEST).unlink()
    os.mkfifo(root / MANIFEST)


CASES = {
    "one bit of the library": (flipped, "BundleError", "lib/cpu.so is damaged: given sha256"),
    "weights one byte short": (truncated, "BundleError", "weights.safetensors has the wrong size"),
    "a digest changed": (digest_changed, "BundleError", "SHA256SUMS is damaged"),
    "no sums": (lambda root: (root / SUMS).unlink(), "BundleError", "SHA256SUMS is missing"),
    "an extra file": (lambda root: (root / "more").touch(), "BundleError", "more is not listed"),
    "a link": (linked, "BundleError", "lib/cpu.so is a link or special file"),
    "a pipe": (piped, "BundleError", "manifest.json is a link or special file"),
    "not there": (shutil.rmtree, "BundleError", "does not exist"),
    "newer schema": (newer, "BundleError", "given schema 2, expected schema 1 or older. Install treadle 9.8.7 or newer"),
    "nested 100,000 times": (deep, "BundleError", "manifest.json: the top level is not readable JSON"),
    "other CPU": (
        lambda root: set_in(root, "libraries", [{"target": "cpu", "file": LIBRARY, "cpu_features": ["amx9"]}]),
        "ArchError",
        "given a CPU without amx9",
    ),
    "other target": (
        lambda root: set_in(root, "libraries", [{"target": "cuda:sm_90a", "file": LIBRARY, "cpu_features": []}]),
        "ArchError",
        "given cpu, expected one of cuda:sm_90a",
    ),
    "wrapping shape": (offsets(wrapping), "BundleError", "norm.bias.shape overflows"),
    "far offsets": (offsets(far), "BundleError", "norm.bias.data_offsets does not fit its tensor"),
    "overlapping weights": (offsets(overlapping), "BundleError", "tensors overlap"),
    "huge header": (huge_header, "BundleError", "its header does not fit"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_before_the_library_is_mapped(small, tmp_path, probe, case):
    change, kind, words = CASES[case]
    root = shutil.copytree(small / "good.treadle", tmp_path / "b.treadle")
    change(root)
    ((verdict, found, said, loaded),) = probe(root)
    assert (verdict, found, loaded) == ("refused", kind, "not loaded")
    assert words in said


def test_the_good_bundle_is_accepted(small, probe):
    assert probe(small / "good.treadle") == [["right"]]


def in_python(root: Path, damage, good: bytes) -> list[str]:
    try:
        with treadle.Session(Bundle.open(root)) as session:
            return ["right" if session.run(**damage.inputs())["y"].tobytes() == good else "wrong"]
    except TreadleError as wrong:
        return ["refused", type(wrong).__name__]


@pytest.mark.parametrize("cases", [300, pytest.param(2000, marks=pytest.mark.long)])
def test_damaged_bundles_hurt_nobody(damage, small, probe, tmp_path, capsys, cases):
    """The damages of tests/runtime/damage.py, another seed: 0 signals, 0 silent loads, and Python's verdict on every one."""
    done, roots = [], []
    for case in range(cases):
        folder = tmp_path / str(case)
        folder.mkdir()
        roots.append(shutil.copytree(small / "good.treadle", folder / "b.treadle"))
        for library in small.glob("*.so"):
            os.link(library, folder / library.name)
        done.append(damage.damage(roots[-1], 4, case))
    found = probe(*roots)
    good = (small / "y.raw").read_bytes()
    differing = [
        (what, *said, expected)
        for what, said, root in zip(done, found, roots, strict=True)
        if said[:2] != (expected := in_python(root, damage, good))
    ]
    counts = Counter(line[0] for line in found)
    with capsys.disabled():
        print(f"\n{cases} damaged bundles in C++: {counts['refused']} refused, {counts['right']} harmless, "
              f"{counts['died']} died, {counts['wrong']} silent or untyped")  # fmt: skip
    assert differing == []
    assert counts["refused"] + counts["right"] == cases
    assert counts["refused"] > 0.7 * cases  # few damages are harmless
