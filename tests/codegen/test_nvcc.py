"""Where the CUDA compiler is looked for, and what is said when it is not there, not whole, or not the right one."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import treadle
from treadle.codegen import nvcc
from treadle.errors import ToolchainError


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No compiler in sight: an empty PATH, no toolkit variables, no wheels."""
    for name in ("CUDA_HOME", "CUDA_PATH", "TREADLE_NVCC"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return monkeypatch


def toolkit(root, version="13.0.88", without=""):
    """A toolkit of empty files, whose nvcc answers the two questions that are asked of it."""
    headers = "include/crt/host_config.h", "include/cccl/x", "include/cuda_runtime.h"
    for file in ("nvvm/bin/cicc", *headers, f"lib/{nvcc.CUDART}"):
        if file != without:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
    answers = f'if [ "$1" = --version ]; then echo "release, V{version}"; else echo "#\\$ TOP={root}/bin/.."; fi'
    script(root / "bin/nvcc", answers)
    return root


def script(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def test_none_at_all_names_the_extra(bare):
    with pytest.raises(ToolchainError) as caught:
        nvcc.find()
    for word in ("no CUDA compiler", "CUDA_HOME", "pip install 'treadle[nvcc]'"):
        assert word in str(caught.value)


def test_a_toolkit_is_found_by_variable_and_by_path(bare, tmp_path):
    one, two = toolkit(tmp_path / "one"), toolkit(tmp_path / "two", "13.1.5")
    bare.setenv("PATH", str(two / "bin"))
    assert nvcc.find().version == "13.1.5"
    bare.setenv("CUDA_PATH", str(one))
    found = nvcc.find()
    assert (found.version, found.include, found.cudart) == ("13.0.88", one / "include", one / "lib" / nvcc.CUDART)
    bare.setenv("TREADLE_NVCC", str(two / "bin/nvcc"))
    assert nvcc.find().version == "13.1.5"


def test_behind_a_wrapper_the_compiler_says_where_it_lives(bare, tmp_path):
    root = toolkit(tmp_path / "toolkit")
    script(tmp_path / "bin/nvcc", f'exec {root}/bin/nvcc "$@"')
    found = nvcc.find()
    assert found.path == str(tmp_path / "bin/nvcc") and found.include == root / "include"


@pytest.mark.parametrize("lost", ["nvvm/bin/cicc", "include/crt/host_config.h", f"lib/{nvcc.CUDART}"])
def test_half_a_set_of_wheels_is_named_but_does_not_hide_a_toolkit(bare, tmp_path, lost):
    bare.setenv("CUDA_HOME", str(toolkit(tmp_path / "half", without=lost)))
    with pytest.raises(ToolchainError, match="incomplete") as caught:
        nvcc.find()
    assert lost in str(caught.value) and "treadle[nvcc]" in str(caught.value)
    bare.setenv("PATH", str(toolkit(tmp_path / "whole") / "bin"))
    assert nvcc.find().include == tmp_path / "whole" / "include"


def test_a_wrong_setting_is_never_passed_over(bare, tmp_path):
    bare.setenv("PATH", str(toolkit(tmp_path / "whole") / "bin"))
    bare.setenv("TREADLE_NVCC", str(tmp_path / "nothing/nvcc"))
    with pytest.raises(ToolchainError, match=r"TREADLE_NVCC.*nothing/nvcc"):
        nvcc.find()
    for text, words in (
        ("echo 'cannot load'; exit 3", "does not run.*cannot load"),
        ("echo V12.8.93", "another version.*12.8.93"),
    ):
        bare.setenv("TREADLE_NVCC", str(script(tmp_path / text[-3:] / "nvcc", text)))
        with pytest.raises(ToolchainError, match=words):
            nvcc.find()


def test_flags_from_the_environment_do_not_reach_the_compiler(monkeypatch):
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-use_fast_math")
    monkeypatch.setenv("NVCC_PREPEND_FLAGS", "-G")
    assert not [n for n in nvcc.environment() if n.startswith("NVCC_")] and nvcc.environment().keys() < os.environ.keys()


BUILD = """
from pathlib import Path
from treadle.api import compile_graph
from treadle.codegen import nvcc
from treadle.ir import build
from treadle.ir.graph import single
assert "site-packages/nvidia/cu13" in nvcc.find().path, nvcc.find()
compile_graph(single(build("image.mean_pool")), "cuda:sm_80,sm_90a", "made.treadle")
"""


@pytest.mark.long
def test_the_wheels_alone_compile_in_an_empty_environment(tmp_path):
    """Downloads 200 MB: the compiler and nvcc extras, installed from the checkout, with no toolkit to be seen."""
    root = Path(treadle.__file__).parents[1]
    venv.create(tmp_path / "v", with_pip=True)
    python, box = tmp_path / "v/bin/python", tmp_path / "box"
    pip = [python, "-m", "pip", "install", "-q", "-c", root / "constraints.txt"]
    subprocess.run([*pip, f"{root}[compiler,nvcc]"], check=True)
    box.mkdir()
    for tool in ("sh", "c++", "g++", "gcc", "cc", "ld", "as"):
        (box / tool).symlink_to(shutil.which(tool))
    alone = {"PATH": str(box), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    subprocess.run([python, "-c", BUILD], cwd=tmp_path, env=alone, check=True, stdout=sys.stdout)
    assert (tmp_path / "made.treadle/lib/cuda-sm_80-sm_90a.so").is_file()
