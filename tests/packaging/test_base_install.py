"""A base install, without the compiler extra, in a virtual environment of its own, loads and runs a CPU bundle."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import treadle
from treadle import models

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a second environment, installed from a wheel with the base dependencies only."""
    home = tmp_path_factory.mktemp("base")
    subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
    python = home / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, ROOT], check=True, cwd=home)
    return python


def run(python, folder, code, *args):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run([python, "-c", code, *args], cwd=folder, env=env, capture_output=True, text=True)


def test_base_install_runs_a_bundle(python, tmp_path):
    treadle.compile(models.build("cgspn", "tiny"), seed=1, out=tmp_path / "tiny.treadle")
    image = np.random.default_rng(0).standard_normal((1, 3, 28, 42), dtype=np.float32)
    np.save(tmp_path / "image.npy", image)
    expected = treadle.load(tmp_path / "tiny.treadle").run(image=image)
    code = (
        "import sys, numpy as np, treadle\n"
        "s = treadle.load('tiny.treadle')\n"
        "y = s.run(image=np.load('image.npy'))\n"
        "np.savez('out.npz', **y)\n"
        "assert not {'tvm', 'torch', 'networkx'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = run(python, tmp_path, code)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npz")
    assert all(np.array_equal(found[n], expected[n]) for n in expected)


def test_base_install_says_what_the_compiler_needs(python, tmp_path):
    done = run(
        python,
        tmp_path,
        "import treadle\ntry:\n    treadle.compile('scan.gspn')\nexcept treadle.errors.ToolchainError as e:\n    print(e)",
    )
    assert done.returncode == 0, done.stderr
    assert "treadle[compiler]" in done.stdout
