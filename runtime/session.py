"""A loaded bundle that runs."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import tvm_ffi

from treadle.errors import ArgumentError, DeviceError, UnknownNameError
from treadle.runtime.bundle import Bundle
from treadle.runtime.devices import check_device, library_for
from treadle.runtime.library import function, load_library, restated
from treadle.runtime.manifest import Entry, Manifest
from treadle.runtime.signature import Signature
from treadle.runtime.tensors import NUMPY
from treadle.settings import settings


def load(path: str | os.PathLike[str], device: str = "cpu") -> Session:
    """Verify the bundle at `path` and make a Session of it on `device`."""
    check_device(device)  # a misspelt device is reported before gigabytes are hashed
    return Session(Bundle.open(path), device)


class Session:
    """One bundle on one device, with its own arena.

    A Session runs one call at a time; calls from several threads wait for each other.
    For parallel calls give each thread its own `clone()`, which shares the weights.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        library = library_for(bundle, device)
        # The library reads this variable itself, too late and too deep to complain.
        _ = settings.num_threads
        self.bundle = bundle
        self.device = device
        file = bundle.path / library.file
        module = load_library(file, bundle.sums[library.file].digest)
        new = function(module, "treadle_session_new", file)
        free = function(module, "treadle_session_free", file)
        self._arena_bytes = function(module, "treadle_arena_bytes", file)
        self._entries = {
            entry.name: _Runner(
                Signature(entry, bundle.manifest.dims),
                function(module, f"treadle_run_{entry.name}", file),
            )
            for entry in bundle.manifest.entries
        }
        weights = [NUMPY.tensor(array) for array in bundle.weights.values()]
        try:
            self._handle = new(*weights)
        except Exception as wrong:
            raise restated(wrong, f"bundle {bundle.path}: the library refuses to start") from wrong
        self._lock = threading.Lock()
        # The finalizer's arguments keep the weights and the library alive until after `free`.
        self._finalizer = weakref.finalize(self, _release, free, self._handle, weights, module)

    @property
    def manifest(self) -> Manifest:
        """What the bundle offers."""
        return self.bundle.manifest

    @property
    def entries(self) -> dict[str, Entry]:
        """The entry points by name, in manifest order."""
        return {entry.name: entry for entry in self.bundle.manifest.entries}

    @property
    def arena_bytes(self) -> int:
        """Bytes the arena holds now; it grows to the largest size seen."""
        with self._lock:
            self._require_open()
            return int(self._arena_bytes(self._handle))

    def run(self, /, entry: str | None = None, out: Mapping[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
        """Run an entry point (the first unless named) and return its outputs by name.

        Inputs are numpy, torch or other DLPack arrays.  Outputs are fresh arrays, of torch
        where an input is, else of numpy; or the caller's own, given in `out`.
        """
        runner = self._runner(entry)
        signature = runner.signature
        bound = signature.bind(inputs, self.device)
        if out is None:
            results, tensors = signature.allocate(bound)
        else:
            results, tensors = signature.accept(out, bound, self.device)
        with self._lock:
            self._require_open()
            try:
                runner.function(self._handle, *bound.tensors, *tensors)
            except Exception as wrong:
                raise restated(wrong, signature.name) from wrong
        return results

    def clone(self) -> Session:
        """Another Session over the same bundle and weights, with an arena of its own."""
        return Session(self.bundle, self.device)

    def close(self) -> None:
        """Free the arena; done by itself when the Session is no longer referenced."""
        with self._lock:
            self._finalizer()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        names = ", ".join(self._entries)
        return f"<Session {self.bundle.manifest.name} on {self.device}: {names}>"

    def _runner(self, entry: str | None) -> _Runner:
        if entry is None:
            return next(iter(self._entries.values()))
        try:
            return self._entries[entry]
        except (KeyError, TypeError):
            if not isinstance(entry, str):
                raise ArgumentError(
                    "the entry point's name is not a string",
                    given=type(entry).__name__,
                    expected="run(entry='name', input=array)",
                ) from None
            raise UnknownNameError.unknown("entry point", entry, self._entries) from None

    def _require_open(self) -> None:
        if not self._finalizer.alive:
            raise DeviceError("the Session is closed", hint="Load the bundle again.")


class _Runner:
    """An entry point ready to be called."""

    __slots__ = ("function", "signature")

    def __init__(self, signature: Signature, function: tvm_ffi.Function) -> None:
        self.signature = signature
        self.function = function


def _release(free: tvm_ffi.Function, handle: Any, *kept_alive: Any) -> None:
    free(handle)
