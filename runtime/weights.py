"""Reading weights.safetensors without copying it.

The arrays are views of one read-only memory map, so sessions of many processes share
the pages.  The rule, for every runtime: 8 bytes hold the length of a header, which is
JSON as strict_json.py has it; of each tensor `dtype`, `shape` and `data_offsets` are
read, and other keys passed over; `__metadata__` holds strings; the sizes that are not
zero times the element's bytes stay below 2**63; the tensors tile the rest of the file
with no gap and no overlap.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from treadle import dtypes
from treadle.errors import BundleError
from treadle.runtime import strict_json
from treadle.runtime.manifest import TensorSpec
from treadle.runtime.sizes import INT64_MAX
from treadle.runtime.strict_json import Node
from treadle.runtime.tensors import ALIGNMENT, empty

FILE = "weights.safetensors"

_PREFIX = 8
_MAX_HEADER = 100_000_000  # the format's own limit

# safetensors' own names.
_DTYPES = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64",
    "I32": "int32", "I64": "int64", "U8": "uint8", "I8": "int8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def load_weights(file: Path, specs: tuple[TensorSpec, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """The weights `specs` ask for, in that order, as read-only arrays."""
    if not specs:
        return {}
    found = read_file(file)
    if found.keys() != {spec.name for spec in specs}:
        names = {spec.name for spec in specs}
        _refuse(
            file,
            "does not hold the weights the manifest lists",
            given=f"{len(found)} tensors, extra: {sorted(found.keys() - names) or 'none'}",
            expected=f"{len(names)} tensors, missing: {sorted(names - found.keys()) or 'none'}",
        )
    return {spec.name: _checked(file, found[spec.name], spec) for spec in specs}


def read_file(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor of the file by name."""
    try:
        return read_arrays(file)
    except (OSError, ValueError) as wrong:
        _refuse(file, f"cannot be read ({wrong})")


def read_arrays(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor of the file by name; ValueError where it is not one of safetensors."""
    try:
        return _read(file)
    except BundleError as wrong:  # of the header, in words for a bundle's own files
        given = "" if wrong.given is None else f": {wrong.given}"
        raise ValueError(f"{wrong.message.removeprefix(f'{file}: ')}{given}") from None


def _read(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    data = np.memmap(file, dtype=np.uint8, mode="r")
    if len(data) < _PREFIX:
        raise ValueError("too short for a header")
    length = int.from_bytes(data[:_PREFIX].tobytes(), "little")
    start = _PREFIX + length
    if length > _MAX_HEADER or start > len(data):
        raise ValueError(f"its header of {length} bytes does not fit")
    views: dict[str, np.ndarray[Any, Any]] = {}
    spans: list[tuple[int, int]] = []
    for name, node in strict_json.parse(data[_PREFIX:start].tobytes(), str(file)).entries():
        if name == "__metadata__":
            _ = [text.string() for _, text in node.entries()]
            continue
        dtype, shape, begin, end = _entry(node, start, len(data))
        spans.append((begin, end))
        views[name] = np.ndarray(shape, dtype, buffer=data[begin:end]) if end > begin else np.empty(shape, dtype)
        views[name].flags.writeable = False
    at = start
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError("tensors overlap" if begin < at else "a gap between tensors")
        at = end
    if at != len(data):
        raise ValueError("bytes behind the last tensor")
    return views


def _entry(node: Node, start: int, size: int) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """One tensor's dtype and shape, and where in the file it begins and ends."""
    code, shape_node, place = node.field("dtype"), node.field("shape"), node.field("data_offsets")
    if code.string() not in _DTYPES:
        code.refuse("is not a dtype we know", given=code.string(), expected=", ".join(_DTYPES))
    dtype = dtypes.DTYPES[_DTYPES[code.string()]].numpy
    shape = tuple(item.integer() for item in shape_node.items())
    offsets = [item.integer() for item in place.items()]
    if len(offsets) != 2:
        place.refuse("is no pair of offsets", given=f"{len(offsets)} numbers", expected="begin and end")
    if math.prod(filter(None, shape)) * dtype.itemsize > INT64_MAX:
        shape_node.refuse("overflows", given=list(shape), expected="fewer than 2**63 bytes")
    begin, end = (start + offset for offset in offsets)
    if begin > end or end > size or end - begin != math.prod(shape) * dtype.itemsize:
        place.refuse("does not fit its tensor", given=offsets, expected=f"{math.prod(shape) * dtype.itemsize} B within the file")
    return dtype, shape, begin, end


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
