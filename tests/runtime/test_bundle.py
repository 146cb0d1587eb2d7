"""A damaged bundle is refused with a typed error, and never reaches dlopen."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from treadle.errors import ArchError, BundleError, UnknownNameError
from treadle.runtime import Bundle, cpu, load
from treadle.runtime.bundle import write_sums
from treadle.runtime.manifest import Library, Manifest, TensorSpec


@pytest.fixture
def no_dlopen(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a library was loaded before the bundle was verified")

    monkeypatch.setattr("tvm_ffi.load_module", refuse)
    monkeypatch.setattr("treadle.runtime.library.tvm_ffi.load_module", refuse)


def _truncate(file: str) -> Callable[[Path], None]:
    return lambda root: os.truncate(root / file, (root / file).stat().st_size // 2)


def _flip(file: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        data = bytearray((root / file).read_bytes())
        data[len(data) // 2] ^= 1
        (root / file).write_bytes(data)

    return change


def _replace(file: str, old: str, new: str, sums: bool = True) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))
        if sums:
            write_sums(root)

    return change


def _sums(line: str) -> Callable[[Path], None]:
    """Add a line to SHA256SUMS, with a last line that is right."""

    def change(root: Path) -> None:
        import hashlib

        body = "".join((root / "SHA256SUMS").read_text().splitlines(keepends=True)[:-1]) + line + "\n"
        (root / "SHA256SUMS").write_text(f"{body}{hashlib.sha256(body.encode()).hexdigest()}\n")

    return change


def _without(file: str) -> Callable[[Path], None]:
    """Remove a file and sum up again: consistent, but incomplete."""

    def change(root: Path) -> None:
        (root / file).unlink()
        write_sums(root)

    return change


ZERO = "0" * 64
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "library truncated": (_truncate("lib/cpu.so"), "lib/cpu.so has the wrong size"),
    "library flipped": (_flip("lib/cpu.so"), "lib/cpu.so is damaged"),
    "weights flipped": (_flip("weights.safetensors"), "weights.safetensors is damaged"),
    "manifest flipped": (_flip("manifest.json"), "manifest.json is damaged"),
    "sums flipped": (_flip("SHA256SUMS"), "SHA256SUMS is damaged"),
    "sums truncated": (_truncate("SHA256SUMS"), "SHA256SUMS is damaged"),
    "sums empty": (lambda root: (root / "SHA256SUMS").write_bytes(b""), "SHA256SUMS is damaged"),
    "sums missing": (lambda root: (root / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
    "library missing": (lambda root: (root / "lib/cpu.so").unlink(), "lib/cpu.so is missing"),
    "extra file": (lambda root: (root / "lib/x.so").touch(), "lib/x.so is not listed"),
    "link": (lambda root: (root / "x").symlink_to(root / "manifest.json"), "x is a link"),
    "link to folder": (lambda root: (root / "x").symlink_to("/"), "x is a link"),
    "pipe": (lambda root: os.mkfifo(root / "x"), "x is a link or special file"),
    "malformed line": (_sums("hello"), "line 5 is malformed: given 'hello'"),
    "negative size": (_sums(f"{ZERO}  -1  a"), "line 5 is malformed"),
    "path escapes": (_sums(f"{ZERO}  0  ../a"), "line 5 leaves the bundle: given '../a'"),
    "absolute path": (_sums(f"{ZERO}  0  /etc/passwd"), "line 5 leaves the bundle"),
    "odd path": (_sums(f"{ZERO}  0  lib//cpu.so"), "line 5 leaves the bundle"),
    "listed twice": (_sums(f"{ZERO}  0  lib/cpu.so"), "line 5 lists lib/cpu.so again"),
    "manifest not JSON": (_replace("manifest.json", "{", "["), "manifest.json: the top level is not readable JSON"),
    "newer schema": (_replace("manifest.json", '"schema": 1', '"schema": 2'), "given schema 2.*Install treadle 0.1.0"),
    "manifest gone": (_without("manifest.json"), "manifest.json is missing"),
    "library gone": (_without("lib/cpu.so"), "the manifest names lib/cpu.so, which is missing"),
    "weights gone": (_without("weights.safetensors"), "the manifest names weights.safetensors, which is missing"),
    "folder gone": (lambda root: shutil.rmtree(root), "does not exist"),
}


@pytest.mark.usefixtures("no_dlopen")
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_before_loading(damage: str, tiny: Path) -> None:
    change, words = DAMAGE[damage]
    change(tiny)
    with pytest.raises(BundleError, match=words) as caught:
        load(tiny)
    assert str(tiny) in str(caught.value) or "manifest.json" in str(caught.value)
    assert caught.value.hint


@pytest.mark.usefixtures("no_dlopen")
def test_every_truncation_of_every_file_is_refused(tiny: Path) -> None:
    for file in sorted(p for p in tiny.rglob("*") if p.is_file()):
        data = file.read_bytes()
        for size in {0, 1, len(data) // 3, len(data) - 1}:
            file.write_bytes(data[:size])
            with pytest.raises(BundleError):
                load(tiny)
        file.write_bytes(data)
    Bundle.open(tiny)  # put back, it is whole again


@pytest.mark.usefixtures("no_dlopen")
def test_a_file_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "model.zip").touch()
    with pytest.raises(BundleError, match=r"not a bundle: given a file, expected a directory\. If it is a zip"):
        load(tmp_path / "model.zip")


@pytest.mark.usefixtures("no_dlopen")
@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tiny: Path) -> None:
    (tiny / "lib/cpu.so").chmod(0)
    with pytest.raises(BundleError, match="cannot be read: given Permission denied"):
        load(tiny)


def _edit(root: Path, **changes: object) -> None:
    manifest = Manifest.from_json((root / "manifest.json").read_bytes())
    (root / "manifest.json").write_text(dataclasses.replace(manifest, **changes).to_json())  # type: ignore[arg-type]
    write_sums(root)


@pytest.mark.usefixtures("no_dlopen")
def test_missing_cpu_features_name_the_recompile(tiny: Path) -> None:
    _edit(tiny, libraries=(Library("cpu", "lib/cpu.so", ("quantum_alu",)),))
    with pytest.raises(
        ArchError, match=r"a CPU without quantum_alu.*`treadle compile tiny --target cpu:native -o .*` on this machine"
    ):
        load(tiny)


def test_the_first_library_this_cpu_can_run_is_taken(tiny: Path) -> None:
    flag = min(cpu.cpu_features())
    fits, not_here = Library("cpu", "lib/cpu.so", (flag,)), Library("cpu:v9", "lib/cpu.so", ("quantum_alu",))
    _edit(tiny, libraries=(not_here, fits))
    assert Bundle.open(tiny).library("cpu") == fits
    with pytest.raises(ArchError, match="quantum_alu"):
        Bundle.open(tiny, target="cpu:v9")


@pytest.mark.usefixtures("no_dlopen")
def test_devices(tiny: Path) -> None:
    for device in ("cuda:0", "ptx:sm_90a", "emulate:sm_90a"):
        with pytest.raises(ArchError, match=f"no library for device {device}: given targets cpu, .*treadle compile tiny"):
            load(tiny, device=device)
    for device in ("gpu", "cuda:x", "cpu:0", "ptx", ""):
        with pytest.raises(UnknownNameError, match=r"unknown device.*one of cpu, cuda:N, ptx:ARCH"):
            load(tiny / "not looked at", device=device)
    _edit(tiny, libraries=(Library("cuda:sm_90a", "lib/cpu.so"),))
    with pytest.raises(ArchError, match="no library for target cpu: given cpu, expected one of cuda:sm_90a"):
        load(tiny)


def test_weights_of_every_dtype_keep_their_bits_and_are_not_copied(tiny: Path) -> None:
    dtypes = ["float32", "float16", "float64", "int32", "int64", "uint8", "int8", "bool", "bfloat16"]
    arrays = {name: np.random.default_rng(0).integers(0, 2, (3, 5)).astype(getattr(ml_dtypes, name, name)) for name in dtypes}
    # safetensors' numpy bridge cannot write float8: write the bytes as uint8 and rename the dtype.
    float8 = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
    for name in float8:
        arrays[name] = np.arange(6, dtype=np.uint8)
    save_file(arrays, tiny / "weights.safetensors")
    data = (tiny / "weights.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].decode().rstrip()
    for name, code in float8.items():
        at = header.index(f'"{name}"')
        header = header[:at] + header[at:].replace('"U8"', f'"{code}"', 1)
    text = header.encode()
    (tiny / "weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    specs = tuple(
        TensorSpec(name, tuple(map(str, array.shape)), name, 1 if array.itemsize == 1 else array.itemsize)
        for name, array in arrays.items()
    )
    _edit(tiny, weights=specs)
    weights = Bundle.open(tiny).weights
    assert list(weights) == list(arrays)
    for name, array in weights.items():
        assert (str(array.dtype), array.tobytes()) == (name, arrays[name].tobytes())
        assert not array.flags.writeable
        assert array.ctypes.data % array.itemsize == 0


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (TensorSpec("gain", ("5",), "float32", 4), r"weight 'gain' differs.*given float32\[4\], expected float32\[5\]"),
        (TensorSpec("gain", ("4",), "float16", 2), r"given float32\[4\], expected float16\[4\]"),
        (TensorSpec("bias", ("4",), "float32", 4), r"extra: \['gain'\], expected 1 tensors, missing: \['bias'\]"),
    ],
)
def test_weights_must_match_the_manifest(tiny: Path, spec: TensorSpec, words: str) -> None:
    _edit(tiny, weights=(spec,))
    with pytest.raises(BundleError, match=words):
        load(tiny)


def test_weights_that_are_no_safetensors(tiny: Path) -> None:
    for data in (b"", b"\xff" * 100, b"\x08" + b"\0" * 7 + b"notjson!"):
        (tiny / "weights.safetensors").write_bytes(data)
        write_sums(tiny)
        with pytest.raises(BundleError, match=r"weights.safetensors: cannot be read"):
            load(tiny)


def test_weights_are_copied_only_where_the_file_is_not_aligned_enough(tiny: Path) -> None:
    save_file({"pad": np.zeros(1, np.uint8), "gain": np.arange(4, dtype=np.uint8)}, tiny / "weights.safetensors")
    _edit(tiny, weights=(TensorSpec("pad", ("1",), "uint8", 1), TensorSpec("gain", ("4",), "uint8", 64)))
    weights = Bundle.open(tiny).weights
    assert weights["gain"].tolist() == [0, 1, 2, 3] and weights["gain"].ctypes.data % 64 == 0
    _edit(tiny, weights=(TensorSpec("pad", ("1",), "uint8", 1), TensorSpec("gain", ("4",), "uint8", 1)))
    assert Bundle.open(tiny).weights["gain"].tolist() == [0, 1, 2, 3]
