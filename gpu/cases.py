"""What the kit holds of each kernel, as plain data: enough to call, check and time it where there is no TVM."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tvm_ffi

from treadle.dtypes import dtype as find_dtype
from treadle.errors import ArchError
from treadle.runtime import cuda
from treadle.runtime.devices import cuda_index, fits
from treadle.runtime.sizes import size_expr
from treadle.runtime.sums import verify_sums

FILE, LIBRARY = "cases.json", "kernels.so"
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Tensor:
    """An argument or result; `within` draws it evenly from that far around zero, where normal values would blow a scan up."""

    name: str
    shape: tuple[str, ...]
    dtype: str
    within: float | None = None

    def sizes(self, sizes: Sizes) -> list[int]:
        return [size_expr(s).evaluate(sizes) for s in self.shape]


@dataclass(frozen=True)
class Work:
    """A call's sizes, the bytes that must cross the memory bus once, and its floating-point operations."""

    sizes: Sizes
    bytes: int
    flops: int


@dataclass(frozen=True)
class Case:
    """One kernel: what it computes, how it was made, and at which sizes it is checked and timed."""

    program: str
    dtype: str
    attrs: Mapping[str, Any]
    schedule: str
    symbol: str
    args: tuple[Tensor, ...]
    results: tuple[Tensor, ...]
    checked: tuple[Work, ...]
    timed: Work | None

    @property
    def title(self) -> str:
        return f"{self.program} {self.dtype}" + "".join(f" {n}={v}" for n, v in self.attrs.items())

    @property
    def eps(self) -> float:
        return find_dtype(self.dtype).eps or 0.0

    def draw(self, sizes: Sizes, device: str, seed: int = 0) -> dict[str, torch.Tensor]:
        """Arguments, rounded to their dtype; the same for the same seed on the same kind of device."""
        generator = torch.Generator(device).manual_seed(zlib.crc32(self.symbol.encode()) + seed)
        drawn = {}
        for arg in self.args:
            shape = arg.sizes(sizes)
            if arg.within is None:
                data = torch.randn(shape, generator=generator, device=device)
            else:
                data = (torch.rand(shape, generator=generator, device=device) * 2 - 1) * arg.within
            drawn[arg.name] = data.to(getattr(torch, arg.dtype))
        return drawn

    def poisoned(self, sizes: Sizes, device: str) -> dict[str, torch.Tensor]:
        """Results filled with NaN: an element that is never written shows."""
        return {
            r.name: torch.full(r.sizes(sizes), torch.nan, dtype=getattr(torch, r.dtype), device=device) for r in self.results
        }


def write(folder: Path, target: str, cases: Sequence[Case]) -> None:
    text = json.dumps({"target": target, "cases": [asdict(c) for c in cases]}, indent=1)
    (folder / FILE).write_text(text + "\n")


def load(folder: Path, device: str) -> tuple[list[Case], tvm_ffi.Module]:
    """The cases and their kernels, once the files match their digests and the device can run the code."""
    verify_sums(folder)
    kept = json.loads((folder / FILE).read_text())
    index = cuda_index(device)
    if index is not None:
        found = cuda.find_device(index)
        archs = kept["target"].partition(":")[2].split(",")
        if not any(fits(arch, found.capability) for arch in archs):
            raise ArchError(f"{folder}: no kernels for {found}", given=kept["target"], expected=f"code for {found.arch}")
    return [_case(c) for c in kept["cases"]], tvm_ffi.load_module(str(folder / LIBRARY))


def _case(kept: dict[str, Any]) -> Case:
    for field in ("args", "results"):
        kept[field] = tuple(Tensor(**{**t, "shape": tuple(t["shape"])}) for t in kept[field])
    kept["checked"] = tuple(Work(**w) for w in kept["checked"])
    kept["timed"] = Work(**kept["timed"]) if kept["timed"] else None
    return Case(**kept)
