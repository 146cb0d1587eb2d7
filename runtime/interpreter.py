"""plan.json, executed step by step in Python, for debugging.

The generated host function and this interpreter call the same kernels in the same
order on the same arena layout, so they agree bit for bit; where they do not, the
step that differs is found with `watch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from treadle import dtypes
from treadle.errors import DeviceError, UnknownNameError
from treadle.runtime.bundle import Bundle
from treadle.runtime.library import function, load_library, restated
from treadle.runtime.plan import REGION_ALIGNMENT, PlanEntry, Value, read_plan
from treadle.runtime.signature import Signature
from treadle.runtime.tensors import framework_of

Watch = Callable[[str, dict[str, Any]], None]


def run_plan(bundle: Bundle, entry: str | None = None, /, **inputs: Any) -> dict[str, Any]:
    """Run one entry point (the first unless named); returns its outputs, as Session.run does."""
    return Interpreter(bundle, entry).run(inputs)


class Interpreter:
    """One entry point of a bundle's plan, with its kernels looked up."""

    def __init__(self, bundle: Bundle, entry: str | None = None) -> None:
        entries = {each.name: each for each in bundle.manifest.entries}
        name = entry if entry is not None else next(iter(entries))
        if name not in entries:
            raise UnknownNameError.unknown("entry point", name, entries)
        self.plan: PlanEntry = read_plan(bundle.plan(), entries[name], bundle.manifest)
        self.signature = Signature(entries[name], bundle.manifest.dims)
        self.weights = bundle.weights
        library = bundle.library("cpu")
        file = bundle.path / library.file
        module = load_library(file, bundle.sums[library.file].digest)
        self._kernels = {step.kernel: function(module, step.kernel, file) for step in self.plan.steps}

    def run(self, inputs: Mapping[str, Any], watch: Watch | None = None) -> dict[str, Any]:
        """Run; `watch(node, {value: array})` sees each step's arguments right after it."""
        bound = self.signature.bind(inputs)
        outputs, _ = self.signature.allocate(bound)
        arena = self._arena(bound.sizes)
        places: dict[str, Mapping[str, Any]] = {
            "input": inputs,
            "output": outputs,
            "weight": self.weights,
            "arena": arena,
        }
        arrays = {name: _view(places[value.place][value.of], value, bound.sizes) for name, value in self.plan.values.items()}
        for step in self.plan.steps:
            given = {name: arrays[name] for name in step.args}
            tensors = [framework_of(a, n).tensor(a) for n, a in given.items()]
            try:
                self._kernels[step.kernel](*tensors)
            except Exception as wrong:
                raise restated(wrong, f"{self.signature.name}: node {step.node}") from wrong
            if watch is not None:
                watch(step.node, given)
        return outputs

    def _arena(self, sizes: Mapping[str, int]) -> dict[str, np.ndarray[Any, Any]]:
        """The regions, one after another, filled with 0xFF: a float never written is a NaN."""
        spans: dict[str, tuple[int, int]] = {}
        end = 0
        for region in self.plan.arena:
            start = -(-end // REGION_ALIGNMENT) * REGION_ALIGNMENT
            end = start + region.bytes.evaluate(sizes)
            spans[region.name] = (start, end)
        try:
            memory = np.full(end + REGION_ALIGNMENT, 0xFF, np.uint8)
        except (MemoryError, ValueError):
            raise DeviceError("no memory for the arena of plan.json", given=f"{end} B", hint="Use smaller sizes.") from None
        base = -memory.ctypes.data % REGION_ALIGNMENT
        return {name: memory[base + lo : base + hi] for name, (lo, hi) in spans.items()}


def _view(holder: Any, value: Value, sizes: Mapping[str, int]) -> Any:
    """The value as an array over the input, output, weight or region that holds it."""
    shape = tuple(size.evaluate(sizes) for size in value.shape)
    if value.place != "arena":
        # Steps may read a tensor under another shape with the same elements.
        return holder if tuple(holder.shape) == shape else holder.reshape(shape)
    dtype = dtypes.DTYPES[value.dtype].numpy
    value.check_fits(math.prod(shape) * dtype.itemsize, holder.nbytes)
    return np.ndarray(shape, dtype, buffer=holder) if holder.size else np.empty(shape, dtype)
