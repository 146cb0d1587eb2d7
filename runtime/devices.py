"""Device names, and which library of a bundle serves them."""

from __future__ import annotations

import re

from treadle.errors import ArchError, DeviceError, UnknownNameError
from treadle.runtime.bundle import Bundle
from treadle.runtime.manifest import Library

# What users may write.  ptx and emulate are check targets: they run through the
# compiler package and never from a bundle's library.
_KNOWN = {
    "cpu": re.compile(r"cpu"),
    "cuda:N": re.compile(r"cuda(:[0-9]+)?"),
    "ptx:ARCH": re.compile(r"ptx:sm_[0-9]+[af]?"),
    "emulate:ARCH": re.compile(r"emulate:sm_[0-9]+[af]?"),
}


def check_device(device: str) -> str:
    """The kind of device (``cpu``, ``cuda``, ...) a name stands for; refuses unknown names."""
    if not any(pattern.fullmatch(device) for pattern in _KNOWN.values()):
        raise UnknownNameError.unknown("device", device, _KNOWN)
    return device.partition(":")[0]


def library_for(bundle: Bundle, device: str) -> Library:
    """The library that serves `device`, with a typed error when none can here."""
    kind = check_device(device)
    if kind == "cpu":
        return bundle.library("cpu")
    held = [library.target for library in bundle.manifest.libraries]
    arch = device.partition(":")[2] if kind in ("ptx", "emulate") else "ARCH"
    if not any(target.startswith("cuda:") for target in held):
        raise ArchError(
            f"bundle {bundle.path}: has no library for device {device}",
            given=f"targets {', '.join(held) or 'none'}",
            expected="a cuda target",
            hint=f"Run `treadle compile {bundle.manifest.name} --target cuda:{arch} -o ...`, "
            "or load with device='cpu'.",
        )
    raise DeviceError(
        f"bundle {bundle.path}: this release of the Python session runs on the CPU only",
        given=f"device {device}, targets {', '.join(held)}",
        expected="device 'cpu'",
        hint="Load with device='cpu'.",
    )
