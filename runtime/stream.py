"""Which CUDA stream a call runs on: the caller's, and never the default stream by accident."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import tvm_ffi

from treadle.errors import ArgumentError

#: What DLPack's `__dlpack__(stream=...)` is told where nothing is to be made to wait.
UNORDERED = -1


def handle_of(stream: Any) -> int:
    """The address behind a stream: an integer, or any object of CUDA's stream protocol, cuda-python, torch or cupy."""
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    try:
        if hasattr(stream, "__cuda_stream__"):
            protocol = stream.__cuda_stream__
            return int((protocol() if callable(protocol) else protocol)[1])
        for attribute in ("cuda_stream", "handle", "ptr"):
            if hasattr(stream, attribute):
                return int(getattr(stream, attribute))
        if not isinstance(stream, (str, bytes, float, bool)):
            return int(stream)  # cuda-python's cudaStream_t
    except (TypeError, ValueError, IndexError):
        pass
    raise ArgumentError(
        "stream= is no CUDA stream",
        given=type(stream).__name__,
        expected="its address, or an object with __cuda_stream__, .cuda_stream, .handle or .ptr",
    )


def current(arrays: Iterable[Any], device: tvm_ffi.Device) -> int | None:
    """torch's current stream where an array is torch's, else the one set through tvm_ffi; None where neither says."""
    torch = sys.modules.get("torch")
    if torch is not None and any(isinstance(array, torch.Tensor) for array in arrays):
        return int(torch.cuda.current_stream(device.index).cuda_stream)
    return int(tvm_ffi.get_raw_stream(device)) or None


def refuse_unknown(device: str) -> NoReturn:
    raise ArgumentError(
        f"no stream is known to run on {device}",
        given="no torch tensor, whose current stream it would be, and no stream=",
        expected="run(..., stream=s) with the stream your arrays are ready on",
        hint="stream=0 is the legacy default stream.",
    )


def dlpack_stream(handle: int | None) -> int:
    """The handle in DLPack's numbering, which calls the legacy default stream 1."""
    return UNORDERED if handle is None else handle or 1


def torch_scope(handle: int, device: str) -> AbstractContextManager[Any]:
    """A scope in which torch allocates for `handle`: its allocator reuses memory in stream order."""
    try:
        import torch
    except ModuleNotFoundError:  # who allocates will say so
        return nullcontext()
    return torch.cuda.stream(torch.cuda.ExternalStream(handle, device=device))
