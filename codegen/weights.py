"""Weights of a Graph: drawn from a seed, or checked and converted from a mapping of arrays; written as safetensors."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from treadle.dtypes import dtype as find_dtype
from treadle.dtypes import of_numpy
from treadle.errors import ArgumentError, UnknownNameError
from treadle.ir import dims as dm
from treadle.ir.graph import Graph

Array = np.ndarray[Any, Any]


def draw(graph: Graph, seed: int) -> dict[str, Array]:
    """Random weights. Each depends on the seed and its own name only, so graphs that share layers share their weights."""
    drawn = {}
    for name, value in graph.weights.items():
        init, shape = graph.inits[name], [dm.evaluate(s, {}) for s in value.shape]
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        data = (
            rng.standard_normal(shape, dtype=np.float32) * init.scale if init.kind == "normal" else np.full(shape, init.scale)
        )
        drawn[name] = data.astype(find_dtype(value.dtype).numpy)
    return drawn


def check(graph: Graph, given: Mapping[str, Array]) -> dict[str, Array]:
    """The graph's weights out of a mapping: every name present, no other, shapes equal, values finite.

    A floating-point array of another dtype is rounded to the graph's.
    """
    for name in given:
        if name not in graph.weights:
            raise UnknownNameError.unknown(f"weight of {graph.name}", name, graph.weights)
    checked = {}
    for name, value in graph.weights.items():
        what = f"weight {name} of {graph.name}"
        if name not in given:
            raise ArgumentError(f"{what} is missing", given=f"{len(given)} arrays", expected=dm.shape_text(value.shape))
        array, shape = np.asarray(given[name]), tuple(dm.evaluate(s, {}) for s in value.shape)
        if array.shape != shape:
            raise ArgumentError(f"{what}: shape", given=list(array.shape), expected=list(shape))
        kind = of_numpy(array.dtype)
        if kind is None or not kind.floating:
            raise ArgumentError(f"{what}: dtype", given=str(array.dtype), expected=f"{value.dtype} or another float")
        array = np.ascontiguousarray(array.astype(find_dtype(value.dtype).numpy, copy=False))
        if not np.isfinite(array.astype(np.float32, copy=False)).all():
            bad = int((~np.isfinite(array.astype(np.float32, copy=False))).sum())
            raise ArgumentError(
                f"{what} is not finite in {value.dtype}",
                given=f"{bad} of {array.size} values NaN or infinite",
                expected="finite values",
            )
        checked[name] = array
    return checked


def write(weights: Mapping[str, Array], file: Path) -> None:
    """Write safetensors; equal weights give equal bytes."""
    save_file(dict(sorted(weights.items())), str(file))


def read(file: Path) -> dict[str, Array]:
    """All arrays of a safetensors file."""
    try:
        return load_file(str(file))
    except (OSError, SafetensorError) as wrong:
        raise ArgumentError(f"weights file {file} cannot be read", given=str(wrong), expected="a safetensors file") from None
