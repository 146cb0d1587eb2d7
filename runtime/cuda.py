"""The CUDA driver and runtime of this machine, asked through ctypes and only once a CUDA device is wanted.

The driver (libcuda) says which devices there are. The runtime (libcudart) is what a bundle's library calls; a process
should hold one of it, so the one already loaded, which is torch's, goes before any other. It is loaded by its full path and
under its own name, and the bundle's library then finds it by that name wherever it lies.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from treadle.errors import DeviceError

DRIVER, RUNTIME = "libcuda.so.1", "libcudart.so.13"

# CUdevice_attribute
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class CudaDevice:
    """One device, and the software that runs it; versions as CUDA counts them, 13000 for 13.0."""

    index: int
    name: str
    capability: tuple[int, int]
    driver: int
    runtime: int

    @property
    def arch(self) -> str:
        """The architecture as compilers write it, without suffix: sm_90."""
        return "sm_{}{}".format(*self.capability)

    def __str__(self) -> str:
        return f"{self.name} (cuda:{self.index}, {self.arch})"


def find_device(index: int) -> CudaDevice:
    """The device, or a DeviceError that says what is missing on the way to it. Loads the CUDA runtime."""
    driver = _driver()
    count, version = ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise DeviceError(
            "no CUDA device on this machine",
            given=f"{DRIVER} finds none" + _hidden(),
            expected="at least one",
            hint="Load the bundle with device='cpu'.",
        )
    if index >= count.value:
        raise DeviceError(
            f"no device cuda:{index}",
            given=f"{count.value} CUDA device{'s' if count.value > 1 else ''}" + _hidden(),
            expected=f"an index below {count.value}",
            hint=f"Use device='cuda:{count.value - 1}'." if count.value > 1 else "Use device='cuda:0'.",
        )
    device, major, minor, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    _call(driver, "cuDeviceGet", ctypes.byref(device), index)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
    _call(driver, "cuDeviceGetName", name, len(name), device)
    _call(driver, "cuDriverGetVersion", ctypes.byref(version))
    found = CudaDevice(index, name.value.decode(), (major.value, minor.value), version.value, runtime_version())
    # Within a major version any driver runs any runtime.
    if found.driver // 1000 < found.runtime // 1000:
        raise DeviceError(
            "the NVIDIA driver is older than the CUDA runtime",
            given=f"a driver for CUDA {_dotted(found.driver)}, runtime {_dotted(found.runtime)}",
            expected=f"a driver for CUDA {found.runtime // 1000}.0 or newer",
            hint="Update the NVIDIA driver.",
        )
    return found


def runtime_version() -> int:
    version = ctypes.c_int()
    runtime = load_runtime()
    if code := runtime.cudaRuntimeGetVersion(ctypes.byref(version)):
        raise DeviceError("the CUDA runtime does not tell its version", given=f"error {code}", expected=RUNTIME)
    return version.value


@cache
def load_runtime() -> ctypes.CDLL:
    """The process's CUDA runtime: the one already loaded, else the nvidia-cuda-runtime package's, else the system's."""
    tries: list[tuple[str, int]] = [(RUNTIME, os.RTLD_NOLOAD), *((str(path), 0) for path in _packaged()), (RUNTIME, 0)]
    why = ""
    for name, mode in tries:
        try:
            return ctypes.CDLL(name, mode=mode | os.RTLD_NOW | os.RTLD_GLOBAL)
        except OSError as wrong:
            why = str(wrong)
    raise DeviceError(
        "no CUDA runtime",
        given=why,
        expected=f"{RUNTIME}, from torch or the nvidia-cuda-runtime package",
        hint="pip install 'treadle[cuda]'",
    )


def stand_in(folder: Path, capability: tuple[int, int]) -> None:
    """Make the libraries in `folder` this process's CUDA, a device of this compute capability.

    They answer to CUDA's own names, so that a process has either them or CUDA.
    """
    try:
        runtime = ctypes.CDLL(RUNTIME, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        load_runtime.cache_clear()
        runtime = ctypes.CDLL(str(folder / RUNTIME), mode=os.RTLD_NOW | os.RTLD_GLOBAL)
    if not hasattr(runtime, "treadle_stand_in"):
        raise DeviceError(
            "this process has loaded CUDA, whose place a stand-in would take",
            given=_loaded(RUNTIME),
            expected="a process without it",
            hint="Use an environment without torch, or with torch's CPU build: tvm-ffi imports the one it finds.",
        )
    wanted = capability[0] * 10 + capability[1]
    standing = runtime.treadle_stand_in(wanted)
    if standing != wanted:
        raise DeviceError(
            "this process has a device that stands in for another architecture",
            given=f"sm_{standing}",
            expected=f"sm_{wanted}",
            hint="Use a process of its own for each architecture.",
        )
    _driver.cache_clear()
    driver = ctypes.CDLL(str(folder / DRIVER), mode=os.RTLD_NOW | os.RTLD_GLOBAL)
    if not hasattr(driver, "treadle_stand_in"):
        raise DeviceError("this process has loaded the NVIDIA driver", given=_loaded(DRIVER), expected="a process of its own")


# cudaError_t: illegal address, timeout, misaligned address, launch failure
_OF_KERNELS = (700, 702, 716, 719)


def broken_by_kernel() -> bool:
    """Whether a kernel has broken the device, so that every call fails from now on."""
    return load_runtime().cudaDeviceSynchronize() in _OF_KERNELS


def reset() -> None:
    """Make the device anew: nothing that was allocated on it stays."""
    load_runtime().cudaDeviceReset()


def _loaded(name: str) -> str:
    """Where a loaded library lies."""
    with open("/proc/self/maps") as maps:
        return next((line.split()[-1] for line in maps if line.rstrip().endswith(name)), name)


@cache
def _driver() -> ctypes.CDLL:
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError as wrong:
        raise DeviceError(
            "no NVIDIA driver on this machine",
            given=str(wrong),
            expected=f"{DRIVER}, which the driver installs",
            hint="Load the bundle with device='cpu', or install the driver.",
        ) from None
    _call(driver, "cuInit", 0)
    return driver


def _packaged() -> list[Path]:
    """Where the nvidia-cuda-runtime package, which torch depends on, keeps the library."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return [path for folder in folders if (path := Path(folder) / "cu13" / "lib" / RUNTIME).is_file()]


def _call(driver: ctypes.CDLL, function: str, *args: object) -> None:
    if code := getattr(driver, function)(*args):
        text = ctypes.c_char_p()
        driver.cuGetErrorName(code, ctypes.byref(text))
        name = text.value.decode() if text.value else f"error {code}"
        raise DeviceError(
            f"the NVIDIA driver refuses {function}",
            given=name + _hidden(),
            expected="a working CUDA device",
            hint="See what `nvidia-smi` says, or load the bundle with device='cpu'.",
        )


def _hidden() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible!r}"


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
