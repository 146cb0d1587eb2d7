"""Loading a bundle's library, and restating the errors it raises."""

from __future__ import annotations

import _ctypes
import ctypes
import threading
from collections.abc import Mapping
from pathlib import Path

import tvm_ffi

from treadle import errors
from treadle.errors import ArgumentError, BundleError, DeviceError, TreadleError

#: What this runtime speaks; `kAbiVersion` in cpp/host.h.
ABI = 2

_lock = threading.Lock()
_loaded: dict[str, list[str]] = {}  # path -> digests loaded from it, in order


def load_library(file: Path, digest: str, made_for: Mapping[str, str] | None = None) -> tvm_ffi.Module:
    """The library in `file`, whose bytes have the given digest; made for files (``manifest``, ``plan``) of these digests.

    dlopen recognises a library by the spelling of its path, so after a bundle has been
    compiled again in place it would hand back the old code.  Each new content is
    therefore opened under a spelling of its own: `lib/./cpu.so`, `lib/././cpu.so`, ...
    """
    with _lock:
        digests = _loaded.setdefault(str(file), [])
        if digest not in digests:
            digests.append(digest)
        spelling = f"{file.parent}/{'./' * digests.index(digest)}{file.name}"
    try:
        plain = ctypes.CDLL(spelling)
        try:
            _check_abi(plain, file)
            for name, wanted in (made_for or {}).items():
                _check_made_for(plain, name, wanted, file)
            # Functions keep their module alive, so it is unloaded with the last Session.
            return tvm_ffi.load_module(spelling, keep_module_alive=False)
        finally:
            _ctypes.dlclose(plain._handle)
    except BundleError:
        raise
    except Exception as wrong:
        raise BundleError(
            f"{file}: the system cannot load this library",
            given=str(wrong).strip().splitlines()[-1],
            expected="a shared library for this system",
            hint=f"Compile the bundle again on this system: `treadle compile ... -o {file.parent.parent}`.",
        ) from wrong


def _check_abi(library: ctypes.CDLL, file: Path) -> None:
    given = library.treadle_abi_version() if hasattr(library, "treadle_abi_version") else "none"
    if given != ABI:
        raise BundleError(
            f"{file}: the library speaks another ABI than this runtime",
            given=f"version {given}",
            expected=f"version {ABI}",
            hint=f"Compile the bundle again with this release: `treadle compile ... -o {file.parent.parent}`.",
        )


def _check_made_for(library: ctypes.CDLL, name: str, wanted: str, file: Path) -> None:
    """The library is manifest and plan compiled: beside others it would read or write past a tensor's end."""
    tell = getattr(library, f"treadle_{name}_digest", None)
    given = "none"
    if tell is not None:
        tell.restype = ctypes.c_char_p
        given = (tell() or b"none").decode("ascii", "replace")
    if given != wanted:
        raise BundleError(
            f"{file}: the library was made for another {name}.json",
            given=f"sha256 {given[:12]}...",
            expected=f"{wanted[:12]}...",
            hint=f"Copy the bundle again, or rebuild it with `treadle compile ... -o {file.parent.parent}`.",
        )


def function(module: tvm_ffi.Module, name: str, file: Path) -> tvm_ffi.Function:
    """An exported function; BundleError when the library lacks what the manifest promises."""
    try:
        return module.get_function(name)
    except AttributeError:
        raise BundleError(
            f"{file}: the library does not export {name}, which the bundle relies on",
            hint=f"Compile the bundle again with `treadle compile ... -o {file.parent.parent}`.",
        ) from None


def restated(wrong: Exception, where: str) -> TreadleError:
    """An error raised inside the library, as one of ours.

    Generated code may name our classes outright as the kind of a tvm-ffi error;
    otherwise Python's own kinds are mapped to the nearest of ours.
    """
    raised = getattr(wrong, "__tvm_ffi_error__", None)
    named = getattr(errors, raised.kind, None) if raised is not None else None
    if isinstance(named, type) and issubclass(named, TreadleError):
        kind: type[TreadleError] = named
    elif isinstance(wrong, (ValueError, TypeError, IndexError)):
        kind = ArgumentError
    elif isinstance(wrong, MemoryError) or (raised is not None and raised.kind == "CUDAError"):
        kind = DeviceError
    else:
        kind = TreadleError
    return kind(f"{where}: {wrong}")
