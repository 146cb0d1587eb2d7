"""`treadle.load`: a bundle on any device, the PTX machine among them."""

from __future__ import annotations

import os

from treadle.errors import ToolchainError
from treadle.runtime import cuda
from treadle.runtime.bundle import Bundle
from treadle.runtime.devices import capability, check_device
from treadle.runtime.session import Session
from treadle.runtime.session import load as load_on_machine


def load(path: str | os.PathLike[str], device: str = "cpu") -> Session:
    """Verify the bundle at `path` and make a Session of it on `device`: cpu, cuda:N, or ptx:ARCH.

    On ptx:sm_90a the bundle's own library for sm_90a runs on this machine, its kernels in the PTX machine, which is slow and
    finds races, missing waits and bytes out of bounds. Arrays stay on the host.
    """
    if check_device(device) != "ptx":
        return load_on_machine(path, device)
    bundle = Bundle.open(path)
    stand_in(device.partition(":")[2])
    from treadle.runtime.staged import StagedSession

    return StagedSession(bundle, device)


def stand_in(arch: str) -> None:
    """Make the stand-in for an architecture this process's CUDA, compiled if it is not in the cache."""
    try:
        from treadle.codegen.ptxsim import standin

        folder = standin.folder()
    except ModuleNotFoundError as missing:
        raise ToolchainError(
            "the PTX machine compiles a stand-in for CUDA on first use",
            given=f"no module {missing.name}",
            expected="the compiler extra",
            hint="pip install 'treadle[compiler,nvcc]'",
        ) from None
    cuda.stand_in(folder, capability(arch))
