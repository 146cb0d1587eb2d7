"""Reading weights.safetensors without copying it.

The safetensors library validates the file (its Rust reader checks that the
tensors tile the data with no gap and no overlap); the arrays are views of one
read-only memory map, so sessions of many processes share the pages.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open

from treadle import dtypes
from treadle.errors import BundleError
from treadle.runtime.manifest import TensorSpec
from treadle.runtime.tensors import ALIGNMENT, empty

FILE = "weights.safetensors"

# safetensors' own names.  Its numpy bridge cannot build float8 arrays, hence our views.
_DTYPES = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64",
    "I32": "int32", "I64": "int64", "U8": "uint8", "I8": "int8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def load_weights(file: Path, specs: tuple[TensorSpec, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """The weights `specs` ask for, in that order, as read-only arrays."""
    if not specs:
        return {}
    try:
        found = read_arrays(file)
    except (SafetensorError, OSError, ValueError) as wrong:
        _refuse(file, f"cannot be read ({wrong})")
    if found.keys() != {spec.name for spec in specs}:
        names = {spec.name for spec in specs}
        _refuse(
            file,
            "does not hold the weights the manifest lists",
            given=f"{len(found)} tensors, extra: {sorted(found.keys() - names) or 'none'}",
            expected=f"{len(names)} tensors, missing: {sorted(names - found.keys()) or 'none'}",
        )
    return {spec.name: _checked(file, found[spec.name], spec) for spec in specs}


def read_arrays(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    data = np.memmap(file, dtype=np.uint8, mode="r")
    views: dict[str, np.ndarray[Any, Any]] = {}
    offset = 8 + int.from_bytes(data[:8].tobytes(), "little")  # header length, then the header
    with safe_open(file, framework="np") as tensors:
        for name in tensors.offset_keys():  # in file order, back to back: checked on opening
            entry = tensors.get_slice(name)
            code, shape = entry.get_dtype(), entry.get_shape()
            if code not in _DTYPES:
                raise ValueError(f"{name} has dtype {code}, known are {', '.join(_DTYPES)}")
            dtype = dtypes.DTYPES[_DTYPES[code]].numpy
            size = math.prod(shape) * dtype.itemsize
            raw = data[offset : offset + size]
            views[name] = np.ndarray(shape, dtype, buffer=raw) if size else np.empty(shape, dtype)
            views[name].flags.writeable = False
            offset += size
    return views


def _checked(file: Path, array: np.ndarray[Any, Any], spec: TensorSpec) -> np.ndarray[Any, Any]:
    given = (str(array.dtype), tuple(str(size) for size in array.shape))
    if given != (spec.dtype, spec.shape):
        _refuse(
            file,
            f"weight {spec.name!r} differs from the manifest",
            given=f"{given[0]}[{', '.join(given[1])}]",
            expected=f"{spec.dtype}[{', '.join(spec.shape)}]",
        )
    # safetensors packs tensors back to back, so a map cannot promise more than bytes.
    if array.ctypes.data % max(spec.alignment, array.itemsize):
        if spec.alignment > ALIGNMENT:
            _refuse(file, f"weight {spec.name!r} wants an alignment we do not give", given=f"{spec.alignment} B")
        aligned = empty(array.shape, array.dtype)
        aligned[...] = array
        aligned.flags.writeable = False
        return aligned
    return array


def _refuse(file: Path, why: str, given: str | None = None, expected: str | None = None) -> NoReturn:
    raise BundleError(
        f"{file}: {why}",
        given=given,
        expected=expected,
        hint=f"Rebuild the bundle with `treadle compile ... -o {file.parent}`.",
    )
