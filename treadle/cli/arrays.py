"""Files in and out of `treadle run`: arrays pass unaltered, pictures become what an encoder expects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from treadle.dtypes import dtype as find_dtype
from treadle.errors import ArgumentError, TreadleError
from treadle.runtime.manifest import Dim, TensorSpec
from treadle.runtime.weights import read_arrays

Array = np.ndarray[Any, Any]

_PICTURES = (".png", ".jpg", ".jpeg")
_KNOWN = (".npy", ".safetensors", *_PICTURES)


def read(file: Path, spec: TensorSpec, dims: Mapping[str, Dim]) -> tuple[Array, list[str]]:
    """The array in `file` for one input, and what was done to it on the way."""
    kind = file.suffix.lower()
    if kind not in _KNOWN:
        raise ArgumentError(f"input {spec.name}: file {file}", given=f"suffix {kind!r}", expected=", ".join(_KNOWN))
    if not file.is_file():
        raise ArgumentError(f"input {spec.name}: file {file} does not exist", given="no such file", expected="a readable file")
    try:
        if kind in _PICTURES:
            return _picture(file, spec, dims)
        array = np.load(file, allow_pickle=False) if kind == ".npy" else _tensor(file, spec.name)
    except (OSError, ValueError, EOFError) as wrong:
        if isinstance(wrong, TreadleError):
            raise
        raise ArgumentError(
            f"input {spec.name}: file {file} cannot be read",
            given=" ".join(str(wrong).split())[:200],
            expected=f"a {kind} file",
        ) from None
    return np.ascontiguousarray(array), []


def write(folder: Path, name: str, array: Array) -> Path:
    """Write an output: .npy where that format knows the dtype, else .safetensors."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if array.dtype.isbuiltin == 1:
            np.save(file := folder / f"{name}.npy", array)
        else:
            from safetensors.numpy import save_file

            save_file({name: array}, file := folder / f"{name}.safetensors")
    except OSError as denied:
        raise ArgumentError(
            f"output {name} cannot be written to {folder}", given=str(denied), expected="a writable folder"
        ) from None
    return file


def _tensor(file: Path, name: str) -> Array:
    """The tensor called `name`, or the only one there is."""
    found = read_arrays(file)
    if name not in found and len(found) != 1:
        raise ArgumentError(
            f"file {file}", given=f"tensors {', '.join(found) or 'none'}", expected=f"one tensor, or one named {name}"
        )
    return found[name] if name in found else next(iter(found.values()))


def _picture(file: Path, spec: TensorSpec, dims: Mapping[str, Dim]) -> tuple[Array, list[str]]:
    """RGB scaled to -1..1 as [1,3,H,W], cropped about its centre to multiples of the steps of H and W."""
    from PIL import Image

    if len(spec.shape) != 4 or spec.shape[1] != "3":
        raise ArgumentError(
            f"input {spec.name}: a picture cannot fill it", given=str(file), expected=f"an array [{', '.join(spec.shape)}]"
        )
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    steps = [dims[size].step if size in dims else 1 for size in spec.shape[2:]]
    size = [have // step * step for have, step in zip(pixels.shape, steps, strict=False)]
    if 0 in size:
        raise ArgumentError(
            f"input {spec.name}: picture {file} is too small",
            given=f"{pixels.shape[0]} x {pixels.shape[1]} pixels",
            expected=f"at least {steps[0]} x {steps[1]}",
        )
    top, left = ((have - keep) // 2 for have, keep in zip(pixels.shape, size, strict=False))
    kept = pixels[top : top + size[0], left : left + size[1]].astype(np.float32)
    image = ((kept / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None]
    said = [f"{file.name}: RGB scaled to -1..1 as {spec.dtype}"]
    if tuple(size) != pixels.shape[:2]:
        said.append(
            f"{file.name}: cropped from {pixels.shape[0]} x {pixels.shape[1]} to {size[0]} x {size[1]} about its centre"
        )
    return np.ascontiguousarray(image.astype(find_dtype(spec.dtype).numpy)), said
