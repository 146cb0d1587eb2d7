"""Device names, and which library of a bundle serves them."""

from __future__ import annotations

import re

from treadle.errors import ArchError, UnknownNameError
from treadle.runtime import cuda
from treadle.runtime.bundle import Bundle
from treadle.runtime.manifest import Library

# What users may write.  emulate is a check target: it runs through the compiler
# package and never from a bundle's library.
_KNOWN = {
    "cpu": re.compile(r"cpu"),
    "cuda:N": re.compile(r"cuda(:[0-9]{1,4})?"),
    "ptx:ARCH": re.compile(r"ptx:sm_[0-9]+[af]?"),
    "emulate:ARCH": re.compile(r"emulate:sm_[0-9]+[af]?"),
}
_ARCH = re.compile(r"sm_([0-9]+)([0-9])([af]?)")


def check_device(device: str) -> str:
    """The kind of device (``cpu``, ``cuda``, ...) a name stands for; refuses unknown names."""
    if not any(pattern.fullmatch(device) for pattern in _KNOWN.values()):
        raise UnknownNameError.unknown("device", device, _KNOWN)
    return device.partition(":")[0]


def cuda_index(device: str) -> int | None:
    """The index of a CUDA device, 0 unless the name says another; None of other kinds."""
    return int(device.partition(":")[2] or 0) if check_device(device) == "cuda" else None


def library_for(bundle: Bundle, device: str) -> Library:
    """The library that serves `device`, with a typed error when none can here."""
    kind = check_device(device)
    if kind == "cpu":
        return bundle.library("cpu")
    held = _held(bundle)
    if kind != "cuda" or not held:
        raise _no_library(bundle, device)
    index = cuda_index(device)
    assert index is not None
    found = cuda.find_device(index)
    fitting = [arch for arch in held if fits(arch, found.capability)]
    if not fitting:
        raise ArchError(
            f"bundle {bundle.path}: holds no code for {found}",
            given=f"code for {', '.join(sorted(held))}",
            expected=f"code for {found.arch}",
            hint=f"Run `treadle compile {bundle.manifest.name} --target cuda:{_wanted(found)} -o {bundle.path}`",
        )
    return bundle.library(held[max(fitting, key=_rank)].target)


def code_for(bundle: Bundle, device: str) -> None:
    """Refuses a bundle without code for exactly the architecture of `ptx:ARCH`."""
    if device.partition(":")[2] not in _held(bundle):
        raise _no_library(bundle, device)


def capability(arch: str) -> tuple[int, int]:
    """The compute capability of sm_90a: (9, 0)."""
    match = _ARCH.fullmatch(arch)
    assert match is not None, "device names are checked"
    return int(match[1]), int(match[2])


def _held(bundle: Bundle) -> dict[str, Library]:
    return {a: library for library in bundle.manifest.libraries for a in architectures(library)}


def _no_library(bundle: Bundle, device: str) -> ArchError:
    kind, _, arch = device.partition(":")
    return ArchError(
        f"bundle {bundle.path}: has no library for device {device}",
        given=f"targets {', '.join(library.target for library in bundle.manifest.libraries) or 'none'}",
        expected=f"target cuda:{arch}" if kind == "ptx" else "a cuda target",
        hint=f"Run `treadle compile {bundle.manifest.name} --target cuda:{arch if kind != 'cuda' else 'ARCH'} -o ...`, "
        "or load with device='cpu'.",
    )


def architectures(library: Library) -> list[str]:
    """What a CUDA library was compiled for: sm_80, sm_90a; none for a CPU library."""
    kind, _, archs = library.target.partition(":")
    return archs.split(",") if kind == "cuda" else []


def fits(arch: str, capability: tuple[int, int]) -> bool:
    """Whether machine code for `arch` runs on a device of this compute capability.

    Plain code runs on its own capability and on later minors of the same major; code with the suffix ``a`` uses
    instructions that exist on exactly one.
    """
    match = _ARCH.fullmatch(arch)
    if not match:
        return False
    major, minor, suffix = int(match[1]), int(match[2]), match[3]
    if suffix == "a":
        return (major, minor) == capability
    return major == capability[0] and minor <= capability[1]


def _rank(arch: str) -> tuple[int, bool]:
    """Of two architectures that fit, the newer and more specific one was compiled with more instructions to choose from."""
    return int(re.sub(r"\D", "", arch)), arch[-1].isalpha()


def _wanted(device: cuda.CudaDevice) -> str:
    """The architecture to compile for: from Hopper on, the one with the device's own instructions."""
    return device.arch + ("a" if device.capability >= (9, 0) else "")
