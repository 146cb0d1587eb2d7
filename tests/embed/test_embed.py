"""The C++ API: examples that agree with Python bit for bit, and errors that say what is wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi

import treadle
from treadle.errors import TreadleError

FFI = Path(tvm_ffi.libinfo.find_libtvm_ffi())


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(0).standard_normal((1, 3, 56, 84), dtype=np.float32)
    file = tmp_path_factory.mktemp("image") / "image.raw"
    pixels.tofile(file)
    return file, pixels


def test_encoder_agrees_with_python_bit_for_bit(examples, image, run):
    file, pixels = image
    done = run(examples / "encode", examples / "tiny.treadle", file, 56, 84)
    assert done.returncode == 0, done.stderr
    expected = {}
    for name, array in treadle.load(examples / "tiny.treadle").run(image=pixels).items():
        total = 0.0  # in the same order, in float64
        for value in array.ravel().tolist():
            total += value * value
        expected[name] = f"({', '.join(map(str, array.shape))}) {total**0.5!r}"
    found = {}
    for name, shape, norm in re.findall(r"^(\w+) (\(.*\)) (\S+)$", done.stdout, re.M):
        found[name] = f"{shape} {float.fromhex(norm)!r}"
    assert found == expected and len(found) == 2


def test_threads_with_a_session_each_agree_with_one(examples, run):
    done = run(examples / "threads", examples / "tiny.treadle", 4, 25)
    assert (done.returncode, done.stdout) == (0, "4 threads, 25 runs each, 0 different\n"), done.stderr


def test_no_python_and_no_tvm_at_run_time(examples, image, run):
    needed = subprocess.run(["readelf", "-d", examples / "encode"], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"NEEDED.*(python|tvm)", needed)
    done = run("env", "LD_DEBUG=libs", examples / "encode", examples / "tiny.treadle", image[0], 56, 84)
    opened = re.findall(r"calling init: (\S+)", done.stderr)
    assert any("libtvm_ffi" in file for file in opened)
    assert not [file for file in opened if re.search(r"python|libtvm_(runtime|compiler)", Path(file).name)]


def test_missing_tvm_ffi_says_how_to_find_it(examples, image, run, tmp_path):
    binary, rpath = (examples / "encode").read_bytes(), str(FFI.parent).encode()
    assert binary.count(rpath) == 1
    lonely = tmp_path / "encode"
    lonely.write_bytes(binary.replace(rpath, b"/nowhere".ljust(len(rpath), b"/")))
    lonely.chmod(0o755)
    command = lonely, examples / "tiny.treadle", image[0], 56, 84
    done = run(*command)
    assert done.returncode == 1
    for part in ("ToolchainError", "libtvm_ffi.so", f"in {tmp_path}", "pip install apache-tvm-ffi", "LD_LIBRARY_PATH"):
        assert part in done.stderr
    shutil.copy(FFI, tmp_path)
    done = run(*command)
    assert done.returncode == 0, done.stderr


# Where Python refuses the same, its message, given and expected are the same; what is said here of each is asked for again.
WRONG = {
    "rank": ("ArgumentError", "main: input 'image' has the wrong rank", "3 axes, shape (3, 28, 28)", "4 axes, shape (N, 3, H, W)"),
    "dtype": ("ArgumentError", "main: input 'image' has the wrong dtype", "float64", "float32"),
    "bits": ("ArgumentError", "main: input 'image' has the wrong dtype", "bfloat16", "float32"),
    "size": ("ArgumentError", "main: input 'image' has the wrong size in axis 1", "4, shape (1, 4, 28, 28)", "3, shape (N, 3, H, W)"),
    "step": ("BoundsError", "main: W, from image.shape[3], is outside the bundle's bounds", "29", "14 to 2058, a multiple of 14"),
    "bound": ("BoundsError", "main: N, from image.shape[0], is outside the bundle's bounds", "0", "1 to 64"),
    "negative": ("BoundsError", "main: input 'image' has an impossible size", "shape (1, 3, -28, 28)", "sizes from 0, and fewer than 2**63 bytes"),
    "absurd": ("BoundsError", "main: input 'image' has an impossible size", f"shape ({2**63 - 1}, 3, 28, 28)", "sizes from 0, and fewer than 2**63 bytes"),
    "null": ("ArgumentError", "main: input 'image' has no data", "a null pointer", "the address of 9408 B"),
    "device": ("DeviceError", "main: input 'image' is on another device than the session", "cuda:1", "cpu"),
    "strides": ("ArgumentError", "main: input 'image' is not contiguous", "strides (2352, 784, 1, 28) for shape (1, 3, 28, 28)", "a compact tensor"),
    "address": ("AlignmentError", "main: input 'image' starts at an address the kernels cannot use", "an address aligned to 1 bytes", "a multiple of 4 bytes"),
    "unknown": ("UnknownNameError", "main: unknown input", "'picture'", "one of image"),
    "missing": ("ArgumentError", "main: input 'image' is missing", "nothing", "image"),
    "twice": ("ArgumentError", "main: input 'image' is given twice", "image, image", "image"),
    "entry": ("UnknownNameError", "unknown entry point", "'encode'", "one of main"),
    "output size": ("ArgumentError", "main: output 'pooled' has the wrong size in axis 0", "2, shape (2, 96)", "1, shape (N, 192)"),
    "output missing": ("ArgumentError", "main: output 'features' is missing", "pooled", "features, pooled"),
    "output const": ("ArgumentError", "main: output 'pooled' is read-only", "", ""),
    "overlap": ("ArgumentError", "main: output 'pooled' shares memory with main: input 'image'", "", "separate memory: kernels read inputs while they write"),
    "shape": ("ArgumentError", "a DLTensor has no shape", "ndim 3", "ndim >= 0 and a shape"),
    "element": ("ArgumentError", "the array has another element type", "float64", "float32"),
    "stream": ("ArgumentError", "main: a stream is for CUDA sessions", "a stream", "none on cpu"),
    "upload": ("ArgumentError", "upload is for CUDA sessions", "a session on cpu", "one on a CUDA device"),
    "no such device": ("UnknownNameError", "unknown device", "'gpu:0'", "one of cpu, cuda:N"),
    "cuda": ("ArchError", "has no library for device cuda:0", "targets cpu", "a cuda target"),
}  # fmt: skip


def test_wrong_tensors_are_refused_by_name(examples, programs, run):
    done = run(programs / "arguments", examples / "tiny.treadle")
    assert done.returncode == 0, done.stderr
    lines = {name: fields for name, *fields in (line.split("\t") for line in done.stdout.splitlines())}
    first = treadle.load(examples / "tiny.treadle").run(image=np.zeros((1, 3, 28, 28), np.float32))
    good = [float.fromhex(text) for text in lines.pop("good")]
    assert good == [first["features"].flat[0], first["pooled"].flat[191]]
    assert lines.keys() == WRONG.keys()
    for name, (kind, message, given, expected) in WRONG.items():
        assert lines[name][:1] + lines[name][2:4] == [kind, given, expected], name
        assert message in lines[name][1], name


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("rank", np.zeros((3, 28, 28), np.float32)),
        ("dtype", np.zeros((1, 3, 28, 28))),
        ("size", np.zeros((1, 4, 28, 28), np.float32)),
        ("step", np.zeros((1, 3, 28, 29), np.float32)),
        ("bound", np.zeros((0, 3, 28, 28), np.float32)),
    ],
)
def test_python_says_the_same(examples, name, array):
    with pytest.raises(TreadleError) as refused:
        treadle.load(examples / "tiny.treadle").run(image=array)
    said = refused.value.to_json()
    assert (said["type"], said["message"], str(said["given"]), said["expected"]) == WRONG[name]


def test_the_examples_are_built_with_the_installed_wheel_alone(installed, examples):
    """Its headers, and its command, which compiled the bundle."""
    found = dict(re.findall(r"^(TREADLE_PROGRAM|treadle_DIR):\w+=(.*)$", (examples / "CMakeCache.txt").read_text(), re.M))
    assert Path(found["TREADLE_PROGRAM"]).resolve() == installed.resolve()
    assert Path(found["treadle_DIR"]).resolve().is_relative_to(installed.parents[1].resolve())
    code = "import treadle, treadle.codegen, treadle.ir; print(treadle.__file__, treadle.codegen.__file__, treadle.ir.__file__)"
    done = subprocess.run([installed.with_name("python"), "-c", code], capture_output=True, text=True, check=True, cwd=examples)
    assert all(Path(file).is_relative_to(installed.parents[1]) for file in done.stdout.split())


def test_cmakedir_names_the_folder_of_the_config(installed):
    done = subprocess.run([installed, "--cmakedir"], capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(installed.parents[1])
    assert (folder / "treadleConfig.cmake").is_file()
    assert f'PACKAGE_VERSION "{treadle.__version__}"' in (folder / "treadleConfigVersion.cmake").read_text()
