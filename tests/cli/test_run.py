"""treadle run: pictures, arrays of every dtype, and what is refused."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from treadle.dtypes import dtype


@pytest.fixture
def photo(tmp_path):
    """A picture whose sides are no multiples of the patch."""
    pixels = np.random.default_rng(0).integers(0, 256, (45, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png", pixels


def run(treadle, bundle, file, out):
    return treadle("run", bundle, f"--input=image={file}", "--output", out, "--json")


def test_a_picture_is_scaled_and_cropped_and_that_is_said(treadle, encoder, photo, tmp_path):
    file, pixels = photo
    ran = run(treadle, encoder, file, tmp_path / "a")
    assert ran.code == 0
    assert "cropped from 45 x 30 to 42 x 28" in ran.err and len(ran.json["result"]["notes"]) == 2
    image = ((pixels[1:43, 1:29].astype(np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None]
    np.save(tmp_path / "image.npy", image)
    assert run(treadle, encoder, tmp_path / "image.npy", tmp_path / "b").json["result"]["notes"] == []
    for name in ("features", "pooled"):
        assert np.array_equal(np.load(tmp_path / "a" / f"{name}.npy"), np.load(tmp_path / "b" / f"{name}.npy"))


def test_bfloat16_goes_through_safetensors(treadle, tmp_path):
    bundle = tmp_path / "planes.treadle"
    assert treadle("compile", "image.to_planes", "--dtype=float16", "-o", bundle).code == 0
    x = np.arange(6).reshape(1, 2, 3).astype(dtype("float16").numpy)
    save_file({"whatever": x}, tmp_path / "x.safetensors")
    ran = treadle("run", bundle, f"--input=x={tmp_path / 'x.safetensors'}", "--output", tmp_path, "--json")
    assert ran.json["result"]["outputs"]["y"]["dtype"] == "float16"


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda f: np.save(f, np.zeros((1, 3, 28, 30), np.float32)), "BoundsError", "30"),
        (lambda f: np.save(f, np.zeros((1, 3, 2072, 28), np.float32)), "BoundsError", "2072"),
        (lambda f: np.save(f, np.zeros((1, 3, 28, 28), np.float64)), "ArgumentError", "float64"),
        (lambda f: np.save(f, np.zeros((1, 1, 28, 28), np.float32)), "ArgumentError", "3"),
        (lambda f: f.write_bytes(b"no array"), "ArgumentError", "cannot be read"),
        (lambda f: None, "ArgumentError", "does not exist"),
    ],
    ids=["no multiple", "too large", "dtype", "shape", "damaged", "missing"],
)
def test_arrays_refused(treadle, encoder, tmp_path, make, kind, words):
    make(tmp_path / "x.npy")
    ran = run(treadle, encoder, tmp_path / "x.npy", tmp_path / "out")
    assert ran.code == 1 and ran.error["type"] == kind
    assert words in " ".join(map(str, ran.error.values()))
    assert treadle("run", encoder, f"--input=image={tmp_path / 'x.npy'}", "--output", tmp_path).err.startswith("error: ")


def test_pictures_refused(treadle, encoder, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    Image.new("RGB", (13, 100)).save(tmp_path / "narrow.png")
    (tmp_path / "picture.bmp").write_bytes(b"BM")
    for name, words in (("torn.png", "cannot be read"), ("narrow.png", "too small"), ("picture.bmp", ".bmp")):
        ran = run(treadle, encoder, tmp_path / name, tmp_path / "out")
        assert ran.code == 1 and ran.error["type"] == "ArgumentError"
        assert words in " ".join(map(str, ran.error.values()))


def test_names_refused(treadle, encoder, photo, tmp_path):
    file, _ = photo
    for line in (
        [f"--input=imag={file}"],
        [f"--input=image={file}", "--entry=mian"],
        [f"--input=image={file}", "--device=gpu"],
        [f"--input=image={file}", f"--input=image={file}"],
        ["--input=image"],
    ):
        assert treadle("run", encoder, *line, "--output", tmp_path / "out", "--json").code == 2
    assert (
        treadle("run", encoder, f"--input=imag={file}", "--output", tmp_path, "--json").error["hint"] == "Did you mean 'image'?"
    )
    assert (
        treadle("run", tmp_path / "none", f"--input=image={file}", "--output", tmp_path, "--json").error["type"]
        == "BundleError"
    )
    (tmp_path / "file").write_text("")
    assert run(treadle, encoder, file, tmp_path / "file").error["type"] == "ArgumentError"


def test_a_damaged_bundle_is_refused(treadle, encoder, photo, tmp_path):
    import shutil

    shutil.copytree(encoder, tmp_path / "torn")
    (tmp_path / "torn" / "lib" / "cpu.so").write_bytes(b"\x7fELF")
    ran = run(treadle, tmp_path / "torn", photo[0], tmp_path / "out")
    assert ran.code == 1 and ran.error["type"] == "BundleError" and "lib/cpu.so" in ran.error["message"]
