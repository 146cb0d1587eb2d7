"""The kit's kernels as functions, and arrays to call them with."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import torch
import tvm_ffi

from gpu import loaders
from gpu.cases import Case, Sizes, read
from treadle.errors import ArchError
from treadle.runtime import cuda
from treadle.runtime.devices import cuda_index, fits
from treadle.runtime.sums import verify_sums

Call = Callable[[], object]
Arrays = dict[str, torch.Tensor]


class Kernels:
    """The kernels of a kit, on one device: loaded once their files match their digests and the device can run the code."""

    def __init__(self, kit: Path, device: str) -> None:
        self.kit, self.device = kit, device
        verify_sums(kit / "kernels")
        target, self.cases, _ = read(kit / "kernels")
        index = cuda_index(device)
        if index is not None:
            found = cuda.find_device(index)
            archs = target.partition(":")[2].split(",")
            if not any(fits(arch, found.capability) for arch in archs):
                raise ArchError(f"{kit}: no kernels for {found}", given=target, expected=f"code for {found.arch}")

    def call(self, case: Case, arrays: Iterable[torch.Tensor]) -> Call:
        """The kernel on these arrays. On CUDA each call enqueues it on the stream that is torch's current one then."""
        function = module(self.kit, case.library, case.route).get_function(case.symbol)
        views = [tvm_ffi.from_dlpack(t) for t in arrays]
        if cuda_index(self.device) is None:
            return lambda: function(*views)
        where = tvm_ffi.device(self.device)

        def enqueue() -> None:
            with tvm_ffi.use_raw_stream(where, torch.cuda.current_stream(where.index).cuda_stream):
                function(*views)

        return enqueue


@cache
def module(kit: Path, library: str, route: str) -> tvm_ffi.Module:
    if route == "B":
        loaders.load(kit / "lib")
    return tvm_ffi.load_module(str(kit / "kernels" / library))


def draw(case: Case, sizes: Sizes, device: str, seed: int = 0) -> Arrays:
    """Arguments, rounded to their dtype; the same for the same seed on the same kind of device."""
    generator = torch.Generator(device).manual_seed(zlib.crc32(case.symbol.encode()) + seed)
    drawn = {}
    for arg in case.args:
        shape = arg.sizes(sizes)
        if arg.within is None:
            data = torch.randn(shape, generator=generator, device=device)
        else:
            data = (torch.rand(shape, generator=generator, device=device) * 2 - 1) * arg.within
        drawn[arg.name] = data.to(getattr(torch, arg.dtype))
    return drawn


def poisoned(case: Case, sizes: Sizes, device: str) -> Arrays:
    """Results filled with NaN: an element that is never written shows."""
    return {r.name: torch.full(r.sizes(sizes), math.nan, dtype=getattr(torch, r.dtype), device=device) for r in case.results}
