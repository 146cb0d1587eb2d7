"""A loaded bundle that runs."""

from __future__ import annotations

import copy
import os
import threading
import weakref
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from types import TracebackType
from typing import Any, NamedTuple

import tvm_ffi

from treadle.errors import ArgumentError, DeviceError, UnknownNameError
from treadle.runtime import manifest as manifest_
from treadle.runtime import stream as streams
from treadle.runtime.bundle import PLAN, Bundle
from treadle.runtime.devices import check_device, cuda_index, library_for
from treadle.runtime.library import function, load_library, restated
from treadle.runtime.manifest import Entry, Manifest
from treadle.runtime.plan import read_plan
from treadle.runtime.signature import Signature
from treadle.runtime.tensors import NUMPY
from treadle.settings import settings

#: What CUDA kernels ask of every address: their widest load is 16 bytes.
CUDA_ALIGNMENT = 16


def load(path: str | os.PathLike[str], device: str = "cpu") -> Session:
    """Verify the bundle at `path` and make a Session of it on `device`."""
    check_device(device)  # a misspelt device is reported before gigabytes are hashed
    return Session(Bundle.open(path), device)


class Session:
    """One bundle on one device, with its own arena.

    A Session runs one call at a time; calls from several threads wait for each other.
    For parallel calls give each thread its own `clone()`, which shares the weights.

    On CUDA a call enqueues its kernels on the caller's stream and returns.  After one call
    at a size it allocates nothing but fresh outputs and can be captured into a CUDA graph;
    give it `out=` then.  A captured graph stays valid for as long as the Session.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        library = library_for(bundle, device)
        index = cuda_index(device)
        # The library reads this variable itself, too late and too deep to complain.
        _ = settings.num_threads
        self.bundle = bundle
        self.device = device if index is None else f"cuda:{index}"
        self._cuda = None if index is None else tvm_ffi.device(self.device)
        weights = [NUMPY.tensor(array) for array in bundle.weights.values()]
        # The library is the plan compiled: where manifest and plan differ, it would read or write past an array's end.
        plan = bundle.plan()
        for entry in bundle.manifest.entries:
            read_plan(plan, entry, bundle.manifest)
        file = bundle.path / library.file
        sums = bundle.sums
        made_for = {"manifest": sums[manifest_.FILE].digest, "plan": sums[PLAN].digest}
        module = load_library(file, sums[library.file].digest, made_for)
        new = function(module, "treadle_session_new", file)
        self._free = function(module, "treadle_session_free", file)
        self._clone = function(module, "treadle_session_clone", file)
        self._arena_bytes = function(module, "treadle_arena_bytes", file)
        self._entries = {
            entry.name: _Runner(
                Signature(entry, bundle.manifest.dims, alignment=1 if index is None else CUDA_ALIGNMENT),
                function(module, f"treadle_run_{entry.name}", file),
            )
            for entry in bundle.manifest.entries
        }
        try:
            handle = new(*weights) if index is None else new(index, *weights)
        except Exception as wrong:
            raise restated(wrong, f"bundle {bundle.path}: the library refuses to start") from wrong
        # On the CPU kernels read the weights where they are; uploaded, they are not needed here any more.
        self._kept_alive = (module, weights if index is None else ())
        self._own(handle)

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

    def run(
        self,
        /,
        entry: str | None = None,
        out: Mapping[str, Any] | None = None,
        stream: Any = None,
        **inputs: Any,
    ) -> dict[str, Any]:
        """Run an entry point (the first unless named) and return its outputs by name.

        Inputs are numpy, torch or other DLPack arrays.  Outputs are fresh arrays, of torch
        where an input is, else of numpy; or the caller's own, given in `out`.  On CUDA they
        run on torch's current stream, or on `stream`: an address, or a stream of cuda-python,
        torch or cupy.
        """
        runner = self._runner(entry)
        signature = runner.signature
        where = self._stream(stream, inputs.values())
        ready_on = streams.dlpack_stream(where)
        bound = signature.bind(inputs, self.device, ready_on)
        if self._cuda is not None and where is None:
            streams.refuse_unknown(self.device)
        if out is None:
            with nullcontext() if where is None or stream is None else streams.torch_scope(where, self.device):
                results, tensors = signature.allocate(bound, self.device)
        else:
            results, tensors = signature.accept(out, bound, self.device, ready_on)
        with self._lock, nullcontext() if where is None else tvm_ffi.use_raw_stream(self._cuda, where):  # type: ignore[arg-type]
            self._require_open()
            try:
                runner.function(self._handle, *bound.tensors, *tensors)
            except Exception as wrong:
                raise restated(wrong, signature.name) from wrong
        return results

    def clone(self) -> Session:
        """Another Session over the same bundle and weights, with an arena of its own."""
        twin = copy.copy(self)
        with self._lock:
            self._require_open()
            twin._own(self._clone(self._handle))
        return twin

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

    def _own(self, handle: Any) -> None:
        """Take charge of the library's session behind `handle`."""
        self._handle = handle
        self._lock = threading.Lock()
        # The finalizer's arguments keep the weights and the library alive until after `free`.
        self._finalizer = weakref.finalize(self, _release, self._free, handle, self._kept_alive)

    def _stream(self, given: Any, arrays: Iterable[Any]) -> int | None:
        """The stream to run on; None on the CPU, and where nobody says."""
        if self._cuda is None:
            if given is not None:
                raise ArgumentError(
                    "stream= is for CUDA sessions",
                    given=type(given).__name__,
                    expected=f"none on {self.device}",
                )
            return None
        return streams.current(arrays, self._cuda) if given is None else streams.handle_of(given)

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


class _Runner(NamedTuple):
    """An entry point ready to be called."""

    signature: Signature
    function: tvm_ffi.Function


def _release(free: tvm_ffi.Function, handle: Any, *kept_alive: Any) -> None:
    free(handle)
