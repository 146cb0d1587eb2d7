"""Graphs: shapes and dtypes checked as nodes are added, views, dead nodes, outputs."""

import pytest

from treadle.errors import ArgumentError, BoundsError
from treadle.ir.graph import Graph, Init

ANY = Init("normal", 1.0)


def encoder():
    g = Graph("g")
    n, h = g.dim("N", 1, 8), g.dim("H", 14, 140, 14)
    image = g.input("image", (n, 3, h, 28), "float32")
    weight, bias = g.weight("w", (5, 3, 14, 14), "float32", ANY), g.weight("b", (5,), "float32", ANY)
    return g, n, h, image, weight, bias


def test_constant_sizes_specialise_a_program_and_symbolic_ones_do_not():
    g, *_, image, weight, bias = encoder()
    y = g.call("embed", "image.patch_embed", image, weight, bias)
    assert repr(y) == "embed.y float32 [N, H // 14, 2, 5]"
    g.output("y", y)
    (node,) = g.nodes
    assert dict(node.program.bound) == {"C": 3, "W": 2, "M": 5}
    assert set(node.sizes) == {"N", "H"}


def test_a_size_that_is_no_multiple_is_refused_by_name():
    g, n, *_, weight, bias = encoder()
    odd = g.input("odd", (n, 3, 30, 28), "float32")
    with pytest.raises(ArgumentError) as caught:
        g.call("embed", "image.patch_embed", odd, weight, bias)
    for word in ("node embed", "image.patch_embed", "argument image", "axis 2", "30", "28"):
        assert word in str(caught.value)


def test_views_must_keep_the_number_of_elements():
    g, n, h, image, *_ = encoder()
    assert g.view(image, (n * 3, h * 28)).root is image
    with pytest.raises(ArgumentError, match="view of image"):
        g.view(image, (n * 3, h))


def test_equality_of_sizes_knows_steps():
    g, n, h, *_ = encoder()
    assert g.same((h // 14) * 14, h) and g.same(n * h, h * n)
    assert not g.same((h // 28) * 28, h) and not g.same(n * 14, h)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(4, 5, 7), (8, 6), (8,)], ["argument weight", "axis 1", "given 6", "expected 7", "x.shape[2]"]),
        ([(4, 5), (8, 5), (8,)], ["argument x", "rank", "[N, P, K]"]),
        ([(4, 5, 7), (8, 7)], ["number of arguments", "given 2", "bias"]),
    ],
)
def test_wrong_shapes_name_node_argument_given_expected(shapes, words):
    g = Graph("g")
    args = [g.input(f"a{i}", shape, "float32") for i, shape in enumerate(shapes)]
    with pytest.raises(ArgumentError) as caught:
        g.call("fc", "gemm.linear", *args)
    for word in ("node fc (gemm.linear)", *words):
        assert word in str(caught.value)


def test_wrong_dtype_is_named():
    g = Graph("g")
    args = g.input("x", (2, 3, 4), "float32"), g.input("w", (5, 4), "float16"), g.input("b", (5,), "float32")
    with pytest.raises(ArgumentError, match=r"argument weight: dtype: given float16 \(w\), expected float32"):
        g.call("fc", "gemm.linear", *args)


def test_a_size_beyond_a_programs_bounds_is_refused():
    g = Graph("g")
    n, h, w = g.dim("N", 1, 1 << 14), g.dim("H", 1, 1 << 14), g.dim("W", 1, 1 << 14)
    x = g.input("x", (n, h * w, 4), "float32")
    with pytest.raises(BoundsError, match="dimension P"):
        g.call("t", "image.to_planes", x)


def test_names_are_unique_and_outputs_are_computed_values_of_their_own():
    g, *_, image, weight, bias = encoder()
    y = g.call("embed", "image.patch_embed", image, weight, bias)
    with pytest.raises(ArgumentError, match="twice"):
        g.input("image", (1,), "float32")
    with pytest.raises(ArgumentError, match="an input or weight"):
        g.output("same", image)
    g.output("y", y)
    with pytest.raises(ArgumentError, match="already an output"):
        g.output("z", g.view(y, y.shape))


def test_nodes_that_no_output_needs_are_dropped_and_order_is_kept():
    g = Graph("g")
    x = g.input("x", (2, 6, 4), "float32")
    a = g.call("a", "image.to_planes", x)
    g.call("dead", "image.to_planes", a)
    b = g.call("b", "image.to_planes", a)
    g.output("b", b)
    assert [n.name for n in g.nodes] == ["a", "b"]
