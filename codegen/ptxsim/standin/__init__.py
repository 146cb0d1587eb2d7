"""A CUDA runtime without a GPU: the libraries that a bundle's own library asks for, with the PTX machine behind them.

They are compiled on first use into the cache and found first by the processes that are told to: nothing is installed. In
Python the runtime is handed their folder (`treadle.load(path, device="ptx:sm_90a")`); any other program is started by
`python -m treadle.codegen.ptxsim.standin PROGRAM ...`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from importlib import resources
from pathlib import Path

from treadle.codegen.ptxsim.standin import build

_keep = ExitStack()  # of the folder, where the cache cannot be written: as long as this process


def folder() -> Path:
    """The folder with libcudart.so.13 and libcuda.so.1, made if it is not there yet."""
    return build.build(resources.files(__name__) / "cpp", _keep)


def environment(**device: int) -> dict[str, str]:
    """The variables with which a process finds them before any other; `device` is what the device claims of itself."""
    found = folder()
    paths = filter(None, (str(found), os.environ.get("LD_LIBRARY_PATH")))
    # A library that is found by its full path, as torch finds CUDA's, finds what was loaded before it by name.
    preload = filter(None, (str(found / build.RUNTIME), os.environ.get("LD_PRELOAD")))
    facts = " ".join(f"{name}={value}" for name, value in device.items())
    claims = {"TREADLE_PTX_DEVICE": facts} if facts else {}
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(paths), "LD_PRELOAD": " ".join(preload), **claims}
