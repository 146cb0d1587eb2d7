"""Programs: building, binding, attributes, cost, and the words of their refusals."""

import pytest

from treadle.errors import ArgumentError, BoundsError, UnknownNameError
from treadle.ir import build, definitions
from treadle.ir import dims as dm


def test_every_definition_builds_in_every_dtype_and_says_what_it_is():
    assert "scan.gspn" in definitions() and "scan.gspn_gates" in definitions()
    for definition in definitions().values():
        assert definition.math and definition.source and definition.doc
        for dtype in definition.dtypes:
            program = build(definition.name, dtype)
            kinds = {str(t.dtype) for t in (*program.args, *program.results)}
            assert dtype in kinds and kinds <= {dtype, "float32", "int32"}  # sums and indices have dtypes of their own
            assert program.symbol.startswith(definition.name.replace(".", "_"))


def test_definitions_live_where_their_names_say():
    for definition in definitions().values():
        family, op = definition.name.split(".")
        homes = {f"treadle.ir.ops.{family}.{file}" for file in (op, op.removesuffix("_adjoint"))}
        assert definition.build.__module__ in homes, definition.name


def test_binding_turns_symbols_into_numbers():
    free, bound = build("scan.gspn"), build("scan.gspn", dims={"W": 5, "G": 1})
    assert [dm.text(s) for s in free.args[2].shape] == ["N", "3", "G", "H", "W"]
    assert [dm.text(s) for s in bound.args[2].shape] == ["N", "3", "1", "H", "5"]
    assert free.digest != bound.digest
    assert build("scan.gspn", dims={"W": (1, 64)}).dims["W"].hi == 64


def test_digest_names_what_is_computed_and_nothing_else():
    same = build("scan.gspn", attrs={"direction": "l2r"}), build("scan.gspn", attrs={"direction": "l2r", "chunk": 0})
    assert same[0].digest == same[1].digest
    others = [
        build("scan.gspn"),
        build("scan.gspn", "float16"),
        build("scan.gspn", attrs={"chunk": 3}),
        build("scan.gspn", dims={"N": 2}),
        build("scan.gspn", dims={"N": (1, 2)}),
    ]
    assert len({p.digest for p in (*others, same[0])}) == 6


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"name": "scan.gspm"}, UnknownNameError, ["scan.gspm", "scan.gspn"]),
        ({"name": "scan.gspn", "dtype": "float8"}, UnknownNameError, ["float8", "bfloat16"]),
        ({"name": "scan.gspn", "attrs": {"directon": "l2r"}}, UnknownNameError, ["directon", "direction"]),
        ({"name": "scan.gspn", "attrs": {"direction": "up"}}, UnknownNameError, ["up", "t2b"]),
        ({"name": "scan.gspn", "attrs": {"chunk": -1}}, ArgumentError, ["chunk", "-1", "at least 0"]),
        ({"name": "scan.gspn", "attrs": {"chunk": 1.5}}, ArgumentError, ["chunk", "1.5", "int"]),
        ({"name": "scan.gspn", "dims": {"Q": 3}}, UnknownNameError, ["Q", "N, C, H, W, G"]),
        ({"name": "scan.gspn", "dims": {"N": 0}}, BoundsError, ["N", "0", "1.."]),
        ({"name": "scan.gspn", "dims": {"N": (5, 2)}}, BoundsError, ["N", "5..2"]),
    ],
)
def test_refusals_name_what_and_what_exists(arguments, error, words):
    with pytest.raises(error) as caught:
        build(**arguments)
    for word in words:
        assert word in str(caught.value)


def test_cost_counts_each_tensor_once():
    sizes = {"N": 2, "C": 3, "H": 5, "W": 7}
    per_tensor = 2 * 3 * 5 * 7
    own = build("scan.gspn").cost({**sizes, "G": 3})
    shared = build("scan.gspn", "bfloat16").cost({**sizes, "G": 1})
    assert own.bytes == 6 * per_tensor * 4
    assert shared.bytes == (3 * per_tensor + per_tensor) * 2  # three shared gates weigh as much as one tensor of C = 3
    assert own.flops == 7 * per_tensor
    with pytest.raises(ArgumentError, match="'G'"):
        build("scan.gspn").cost(sizes)


def test_adjoint_takes_the_forward_arguments_and_returns_their_gradients():
    program = build("scan.gspn", "float16", {"direction": "r2l", "chunk": 4}, {"W": 9})
    adjoint = program.adjoint
    assert [t.op.name for t in adjoint.args] == ["dh", "x", "lam", "gates", "h"]
    assert [t.op.name for t in adjoint.results] == ["dx", "dlam", "dgates"]
    assert adjoint.attrs == program.attrs and adjoint.bound == program.bound and adjoint.dtype == "float16"
    assert adjoint.scan.reverse != program.scan.reverse
    assert build("norm.layer_norm").adjoint is None
