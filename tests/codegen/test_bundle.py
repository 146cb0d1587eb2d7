"""Bundles: byte-identical, replaced whole or not at all, with weights checked before they are written."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import treadle
from treadle import models
from treadle.api import compile_graph
from treadle.codegen import weights
from treadle.errors import ArgumentError, BundleError, ToolchainError, UnknownNameError
from treadle.ir import build
from treadle.ir.graph import single


@pytest.fixture(scope="module")
def graph():
    return models.build("cgspn", "tiny")


def tree(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_two_clean_compiles_give_the_same_bytes(tmp_path, monkeypatch, graph):
    made = []
    for name in ("one", "two"):
        monkeypatch.setenv("TREADLE_CACHE_DIR", str(tmp_path / f"cache-{name}"))
        report = compile_graph(graph, "cpu", tmp_path / name, seed=3)
        assert not report.cached
        made.append(tree(tmp_path / name))
    assert made[0].keys() == made[1].keys()
    assert [n for n in made[0] if made[0][n] != made[1][n]] == []


def test_a_second_compile_comes_from_the_cache_and_replaces_the_bundle(tmp_path, graph):
    compile_graph(graph, "cpu", tmp_path / "b", seed=1)
    before = tree(tmp_path / "b")
    report = compile_graph(graph, "cpu", tmp_path / "b", seed=2)
    after = tree(tmp_path / "b")
    assert report.cached
    assert {n for n in after if after[n] != before[n]} == {"weights.safetensors", "SHA256SUMS"}
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_a_failed_compile_leaves_the_old_bundle(tmp_path, graph, monkeypatch):
    compile_graph(graph, "cpu", tmp_path / "b")
    before = tree(tmp_path / "b")
    monkeypatch.setenv("TREADLE_CACHE_DIR", str(tmp_path / "cold"))
    monkeypatch.setattr("treadle.codegen.cpu._FLAGS", ("-std=c++17", "--no-such-flag"))
    with pytest.raises(ToolchainError, match="no-such-flag"):
        compile_graph(graph, "cpu", tmp_path / "b")
    assert tree(tmp_path / "b") == before
    assert [f.name for f in (tmp_path / "cold").iterdir() if f.is_dir()] == []


def test_what_is_no_bundle_is_never_replaced(tmp_path, graph):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("precious")
    with pytest.raises(BundleError, match="no bundle"):
        compile_graph(graph, "cpu", tmp_path / "notes")
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "precious"


def test_weights_depend_on_seed_and_name_only(graph):
    small, large = weights.draw(graph, 5), weights.draw(models.build("cgspn", "tiny", depth=6), 5)
    assert all(np.array_equal(small[n], large[n]) for n in small)
    assert not np.array_equal(small["blocks.0.fc1.weight"], weights.draw(graph, 6)["blocks.0.fc1.weight"])


def test_weights_round_trip_through_a_file(tmp_path, graph):
    given = weights.draw(graph, 7)
    weights.write(given, tmp_path / "w.safetensors")
    compile_graph(graph, "cpu", tmp_path / "b", tmp_path / "w.safetensors")
    stored = load_file(str(tmp_path / "b" / "weights.safetensors"))
    assert all(np.array_equal(stored[n], given[n]) for n in given) and stored.keys() == given.keys()


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda w: w.pop("norm.weight"), ArgumentError, ["norm.weight", "missing", "[192]"]),
        (lambda w: w.update(extra=np.zeros(3, np.float32)), UnknownNameError, ["extra"]),
        (lambda w: w.update({"norm.bias": np.zeros(7, np.float32)}), ArgumentError, ["norm.bias", "[7]", "[192]"]),
        (lambda w: w.update({"norm.bias": np.zeros(192, np.int32)}), ArgumentError, ["norm.bias", "int32", "float32"]),
        (
            lambda w: w.update({"norm.bias": np.full(192, np.nan, np.float32)}),
            ArgumentError,
            ["norm.bias", "not finite", "192 of 192"],
        ),
    ],
)
def test_bad_weights_are_named(graph, damage, error, words):
    given = weights.draw(graph, 0)
    damage(given)
    with pytest.raises(error) as caught:
        weights.check(graph, given)
    for word in words:
        assert word in str(caught.value)


def test_weights_of_another_float_are_rounded_and_overflow_is_refused():
    graph = models.build("cgspn", "tiny", "float16")
    wide = {n: a.astype(np.float32) for n, a in weights.draw(graph, 0).items()}
    assert all(a.dtype == np.float16 for a in weights.check(graph, wide).values())
    wide["norm.bias"][0] = 1e6
    with pytest.raises(ArgumentError, match="not finite in float16"):
        weights.check(graph, wide)


def test_kernels_by_position_by_name_and_with_bound_dims():
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(s, dtype=np.float32) for s in ((1, 4, 6), (3, 6), (3,)))
    kernel = treadle.compile("gemm.linear", dims={"K": 6, "M": (1, 8)})
    y = kernel(x, w, bias=b)
    np.testing.assert_allclose(y, x @ w.T + b, rtol=1e-5)
    out = {"y": np.empty_like(y)}
    assert kernel(x, w, b, out=out) is out["y"] and np.array_equal(out["y"], y)
    for args, kwargs, words in (
        ((x, w, b, b), {}, "number of arguments"),
        ((x, w), {"x": x}, "by position and by name"),
        ((x[..., :5].copy(), w, b), {}, "expected 6"),
    ):
        with pytest.raises(ArgumentError, match=words):
            kernel(*args, **kwargs)


def test_a_program_becomes_a_bundle_too(tmp_path):
    compile_graph(single(build("image.patch_embed", attrs={"patch": 2})), "cpu", tmp_path / "p")
    rng = np.random.default_rng(1)
    image, w, b = (rng.standard_normal(s, dtype=np.float32) for s in ((1, 3, 6, 4), (5, 3, 2, 2), (5,)))
    y = treadle.load(tmp_path / "p").run(image=image, weight=w, bias=b)["y"]
    patches = image.reshape(1, 3, 3, 2, 2, 2).transpose(0, 2, 4, 1, 3, 5).reshape(1, 3, 2, 12)
    np.testing.assert_allclose(y, patches @ w.reshape(5, 12).T + b, rtol=1e-4, atol=1e-5)
