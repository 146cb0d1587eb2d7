"""A tiny bundle whose library is written by hand, so that `runtime` is tested without a compiler."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tvm_ffi import libinfo

from treadle.runtime.bundle import write_sums
from treadle.runtime.manifest import Dim, Entry, Library, Manifest, TensorSpec
from treadle.settings import settings

HERE = Path(__file__).parent
POOL = HERE.parents[1] / "runtime" / "cpp" / "pool.cc"

GAIN = np.array([1.0, 2.0, 3.0, 0.5], np.float32)

MANIFEST = Manifest(
    name="tiny",
    producer={"treadle": "0.1.0"},
    dims={"N": Dim(lo=0, hi=64)},
    entries=(
        Entry(
            "main",
            inputs=(TensorSpec("x", ("N", "4"), "float32", 4),),
            outputs=(TensorSpec("y", ("N", "4"), "float32", 4), TensorSpec("total", ("N",), "float32", 4)),
        ),
    ),
    weights=(TensorSpec("gain", ("4",), "float32", 4),),
    libraries=(Library("cpu", "lib/cpu.so"),),
)

PLAN = {
    "schema": 1,
    "entries": {
        "main": {
            "arena": [{"name": "a0", "bytes": "N*4*4"}],
            "values": {
                "x": {"shape": ["N", "4"], "dtype": "float32", "place": "input", "of": "x"},
                "w.gain": {"shape": ["4"], "dtype": "float32", "place": "weight", "of": "gain"},
                "a": {"shape": ["N", "4"], "dtype": "float32", "place": "arena", "of": "a0"},
                "y": {"shape": ["N", "4"], "dtype": "float32", "place": "output", "of": "y"},
                "total": {"shape": ["N"], "dtype": "float32", "place": "output", "of": "total"},
            },
            "steps": [
                {"node": "scale", "kernel": "tiny_scale", "args": ["x", "w.gain", "a"]},
                {"node": "add", "kernel": "tiny_add_one", "args": ["a", "y"]},
                {"node": "sum", "kernel": "tiny_row_sum", "args": ["a", "total"]},
            ],
        }
    },
    "reuse": {"bytes_without": 64, "bytes_with": 64, "at": {"N": 4}},
}


def _compile_library(output: Path, *flags: str) -> None:
    """g++ tiny.cc and the pool into one library, the way codegen links, for the bundle that `output` lies in."""
    includes = [f"-I{path}" for path in (libinfo.find_include_path(), libinfo.find_dlpack_include_path())]
    options = [
        "-std=c++17",
        "-O1",
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
    ]
    for name in ("manifest", "plan"):
        digest = hashlib.sha256((output.parents[1] / f"{name}.json").read_bytes()).hexdigest()
        options.append(f'-D{name.upper()}_DIGEST="{digest}"')
    sources = [str(HERE / "tiny.cc"), str(POOL)]
    subprocess.run([settings.cxx, *options, *includes, *flags, *sources, "-o", str(output)], check=True)


@pytest.fixture(scope="module")
def tiny_built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, built once; tests that change it take `tiny` instead."""
    root = tmp_path_factory.mktemp("bundles") / "tiny.treadle"
    (root / "lib").mkdir(parents=True)
    save_file({"gain": GAIN}, root / "weights.safetensors")
    (root / "manifest.json").write_text(MANIFEST.to_json())
    (root / "plan.json").write_text(json.dumps(PLAN))
    _compile_library(root / "lib" / "cpu.so")
    write_sums(root)
    return root


@pytest.fixture
def tiny(tiny_built: Path, tmp_path: Path) -> Iterator[Path]:
    """A private copy of the tiny bundle."""
    yield shutil.copytree(tiny_built, tmp_path / "tiny.treadle")


@pytest.fixture
def compile_library() -> Callable[..., None]:
    """For tests that need another library than the bundle's."""
    return _compile_library
