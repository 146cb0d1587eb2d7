"""Every wrong argument is refused before a kernel runs, in the caller's words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from treadle.errors import AlignmentError, ArgumentError, BoundsError, DeviceError, TreadleError, UnknownNameError
from treadle.runtime.manifest import Dim, Entry, TensorSpec
from treadle.runtime.signature import Signature
from treadle.runtime.tensors import NUMPY, TORCH, empty

SIGNATURE = Signature(
    Entry(
        "main",
        (
            TensorSpec("image", ("N", "3", "H"), "float32", 4),
            TensorSpec("mask", ("N", "H//2"), "bool", 1),
            TensorSpec("gate", ("G",), "float32", 16),
        ),
        (TensorSpec("y", ("N", "H//2"), "float32", 4),),
    ),
    {"N": Dim(1, 8), "H": Dim(4, 40, 4), "G": Dim(1, 64, 1, ("1", "N"))},
)


ALIGNED = empty((16,), np.dtype(np.float32))


def good(**changes: Any) -> dict[str, Any]:
    arrays = {
        "image": np.zeros((2, 3, 8), np.float32),
        "mask": np.zeros((2, 4), bool),
        "gate": ALIGNED[:2],
    }
    arrays.update(changes)
    return {name: array for name, array in arrays.items() if array is not None}


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float32)


def test_good_arguments_bind() -> None:
    bound = SIGNATURE.bind(good())
    assert bound.sizes == {"N": 2, "H": 8, "G": 2} and bound.framework is NUMPY
    assert [tensor.shape for tensor in bound.tensors] == [(2, 3, 8), (2, 4), (2,)]
    assert SIGNATURE.output_shapes(bound.sizes) == [(2, 4)]
    assert SIGNATURE.bind(good(gate=ALIGNED[:1])).sizes["G"] == 1


BAD: dict[str, tuple[type[TreadleError], Any, str]] = {
    "missing": (
        ArgumentError,
        {"mask": None},
        "main: input 'mask' is missing: given image, gate, expected image, mask, gate",
    ),
    "extra": (UnknownNameError, {"imgae": f32(1)}, "main: unknown input: given 'imgae'.*Did you mean 'image'"),
    "no array": (ArgumentError, {"image": [[1.0]]}, "main: input 'image' is not an array: given list.*numpy.asarray"),
    "scalar": (ArgumentError, {"image": np.float32(1)}, "main: input 'image' is not an array: given float32"),
    "dtype": (
        ArgumentError,
        {"image": np.zeros((2, 3, 8))},
        r"input 'image' has the wrong dtype: given float64, expected float32. Cast it with image.astype\('float32'\)",
    ),
    "unknown dtype": (ArgumentError, {"image": np.zeros((2, 3, 8), "c8")}, "wrong dtype: given complex64"),
    "big endian": (ArgumentError, {"image": np.zeros((2, 3, 8), ">f4")}, "wrong dtype: given big-endian >f4"),
    "rank": (
        ArgumentError,
        {"image": f32(3, 8)},
        r"wrong rank: given 2 axes, shape \(3, 8\), expected 3 axes, shape \(N, 3, H\)",
    ),
    "fixed size": (
        ArgumentError,
        {"image": f32(2, 4, 8)},
        r"input 'image' has the wrong size in axis 1: given 4, shape \(2, 4, 8\), expected 3, shape \(N, 3, H\)",
    ),
    "derived size": (
        ArgumentError,
        {"mask": np.zeros((2, 5), bool)},
        r"input 'mask' has the wrong size in axis 1: given 5, shape \(2, 5\), expected 4, shape \(N, H//2\)",
    ),
    "inconsistent": (
        ArgumentError,
        {"mask": np.zeros((3, 4), bool)},
        r"main: N is 2 from image.shape\[0\] but 3 from mask.shape\[0\]",
    ),
    "above hi": (
        BoundsError,
        {"image": f32(2, 3, 44)},
        r"main: H, from image.shape\[2\], is outside.*given 44, expected 4 to 40, a multiple of 4.*--dim H=",
    ),
    "below lo": (BoundsError, {"image": f32(2, 3, 0)}, "given 0, expected 4 to 40"),
    "step": (BoundsError, {"image": f32(2, 3, 10)}, "given 10, expected 4 to 40, a multiple of 4"),
    "one_of": (
        BoundsError,
        {"gate": ALIGNED[:3]},
        r"main: G, from gate.shape\[0\], is none of.*given 3, expected one of 1, N = 2",
    ),
    "strides": (
        ArgumentError,
        {"image": f32(8, 3, 2).T},
        r"'image' is not contiguous: given strides \(1, 2, 6\) for shape \(2, 3, 8\), "
        r"expected strides \(24, 8, 1\).*numpy.ascontiguousarray",
    ),
    "stepped": (ArgumentError, {"image": f32(2, 3, 16)[:, :, ::2]}, r"given strides \(48, 16, 2\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case: str) -> None:
    kind, changes, words = BAD[case]
    with pytest.raises(TreadleError, match=words) as caught:
        SIGNATURE.bind(good(**changes))
    assert type(caught.value) is kind
    assert caught.value.given is not None and caught.value.expected is not None


def multiples(*inputs: TensorSpec) -> Signature:
    outputs = (TensorSpec("y", ("N", "H", "W"), "float32", 4),)
    return Signature(Entry("main", inputs, outputs), {"N": Dim(1, 8), "H": Dim(1, 9), "W": Dim(2, 9)})


def test_a_size_stated_as_a_multiple() -> None:
    signature = multiples(TensorSpec("image", ("N", "H * 14", "W * 14"), "float32", 4))
    assert signature.bind({"image": f32(2, 28, 42)}).sizes == {"N": 2, "H": 2, "W": 3}
    with pytest.raises(
        BoundsError,
        match=r"input 'image': the size in axis 1 does not divide by 14: given 60, "
        r"expected a multiple of 14, such as 56 or 70. Crop or pad",
    ):
        signature.bind({"image": f32(2, 60, 42)})
    with pytest.raises(BoundsError, match="given 13, expected a multiple of 14, such as 14 or 28"):
        signature.bind({"image": f32(2, 28, 13)})
    with pytest.raises(BoundsError, match=r"main: W, from image.shape\[2\] / 14, is outside.*given 1, expected 2 to 9"):
        signature.bind({"image": f32(2, 28, 14)})


def test_a_bare_size_is_preferred_to_a_multiple() -> None:
    signature = multiples(
        TensorSpec("image", ("N", "H * 14", "W * 14"), "float32", 4), TensorSpec("rows", ("H", "W"), "float32", 4)
    )
    assert signature.origin["H"] == "rows.shape[0]"
    assert signature.bind({"image": f32(1, 28, 42), "rows": f32(2, 3)}).sizes == {"N": 1, "H": 2, "W": 3}
    with pytest.raises(ArgumentError, match=r"input 'image' has the wrong size in axis 1: given 42.*expected 28"):
        signature.bind({"image": f32(1, 42, 42), "rows": f32(2, 3)})
    with pytest.raises(ArgumentError, match="input 'image' has the wrong size in axis 2: given 43"):
        signature.bind({"image": f32(1, 28, 43), "rows": f32(2, 3)})


def test_alignment_below_the_element_and_below_the_entry() -> None:
    raw = np.zeros(2 * 3 * 8 * 4 + 1, np.uint8)
    with pytest.raises(AlignmentError, match=r"input 'image' starts at.*aligned to \d+ bytes, expected a multiple of 4 b"):
        SIGNATURE.bind(good(image=np.ndarray((2, 3, 8), np.float32, buffer=raw, offset=1)))
    with pytest.raises(AlignmentError, match=r"input 'gate'.*aligned to 4 bytes, expected a multiple of 16 bytes"):
        SIGNATURE.bind(good(gate=ALIGNED[1:3]))


def test_torch_arguments() -> None:
    torch = pytest.importorskip("torch")
    image = torch.zeros(2, 3, 8)
    assert SIGNATURE.bind(good(image=image)).framework is TORCH
    with pytest.raises(ArgumentError, match=r"given torch.float64, expected float32. Cast it with image.to\(torch.float32\)"):
        SIGNATURE.bind(good(image=image.double()))
    with pytest.raises(ArgumentError, match=r"strides \(24, 1, 3\).*call .contiguous\(\)"):
        SIGNATURE.bind(good(image=torch.zeros(2, 8, 3).transpose(1, 2)))
    with pytest.raises(DeviceError, match=r"input 'image' is on another device.*given meta, expected cpu"):
        SIGNATURE.bind(good(image=torch.zeros(2, 3, 8, device="meta")))


def test_out_is_checked_like_an_input() -> None:
    arrays = good()
    bound = SIGNATURE.bind(arrays)
    y = f32(2, 4)
    assert SIGNATURE.accept({"y": y}, bound)[0]["y"] is y
    read_only = f32(2, 4)
    read_only.flags.writeable = False
    shared = arrays["image"].reshape(-1)[:8].reshape(2, 4)
    for out, words in [
        ({}, "output 'y' is missing from out="),
        ({"z": y}, "main: unknown output: given 'z', expected one of y"),
        ({"y": f32(2, 5)}, "output 'y' has the wrong size in axis 1: given 5"),
        ({"y": np.zeros((2, 4))}, "output 'y' has the wrong dtype: given float64"),
        ({"y": f32(4, 2).T}, "output 'y' is not contiguous"),
        ({"y": read_only}, "output 'y' is read-only"),
        ({"y": shared}, "output 'y' shares memory with main: input 'image'"),
    ]:
        with pytest.raises(TreadleError, match=words):
            SIGNATURE.accept(out, bound)
