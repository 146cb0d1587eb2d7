"""The command line, run in this process or as its users run it, and a small encoder to run it on."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from treadle.cli import main


@dataclass
class Ran:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """The one JSON value on stdout: json.loads refuses anything before or after it."""
        value = json.loads(self.out)
        assert value["schema"] == 1 and len(value) == 3
        return value

    @property
    def error(self):
        error = self.json["error"]
        assert list(error) == ["type", "message", "given", "expected", "hint"]
        return error


@pytest.fixture
def treadle(capsys):
    """treadle("list", "--json"): a command line in this process."""

    def run(*args):
        capsys.readouterr()
        code = main([str(a) for a in args])
        ran = Ran(code, *capsys.readouterr())
        assert "Traceback" not in ran.out + ran.err
        return ran

    return run


@pytest.fixture
def process(cache_dir):
    """process(["list"], TREADLE_CXX="..."): a command line in a process of its own; `without` hides modules from it."""

    def run(args, without=(), **env):
        code = (
            f"import sys; sys.modules.update(dict.fromkeys({tuple(without)!r})); from treadle.cli import main; sys.exit(main())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, args)],
            capture_output=True,
            text=True,
            env={**os.environ, **env},
            timeout=120,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def small():
    """Flags of the smallest C-GSPN that is still one: what it computes matters in tests/models, what is said of it here."""
    return [f"--attr={option}" for option in ("depth=1", "channels=32", "latent=8", "mlp=64")]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory, cache_dir, small):
    """A bundle of a small encoder."""
    path = tmp_path_factory.mktemp("cli") / "small.treadle"
    assert main(["compile", "cgspn:tiny", *small, "-o", str(path), "--json"]) == 0
    return path
