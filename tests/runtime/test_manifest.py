"""manifest.json: round trip, determinism, and refusal of everything that is not schema 1."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from treadle.errors import BundleError
from treadle.runtime.manifest import Dim, Entry, Library, Manifest, TensorSpec

MANIFEST = Manifest(
    name="cgspn:tiny",
    producer={"treadle": "0.1.0", "c++": "g++ 12"},
    dims={"N": Dim(1, 64), "H": Dim(14, 1400, 14), "G": Dim(1, 64, 1, ("1", "N"))},
    entries=(
        Entry(
            "main",
            (TensorSpec("image", ("N", "3", "H"), "bfloat16", 2), TensorSpec("g", ("G", "H//14"), "int64", 8)),
            (TensorSpec("features", ("N", "H//14"), "float32", 4),),
        ),
    ),
    weights=(TensorSpec("w", ("3", "4"), "float8_e4m3fn", 64),),
    libraries=(Library("cpu", "lib/cpu.so", ("avx2", "fma")),),
)


def test_round_trip_is_exact() -> None:
    text = MANIFEST.to_json()
    again = Manifest.from_json(text)
    assert again == MANIFEST and again.to_json() == text
    assert Manifest.from_json(text.encode()) == MANIFEST


def test_a_dim_stated_as_a_multiple_is_stated() -> None:
    document = json.loads(MANIFEST.to_json())
    _set(*INPUT, "shape", 2, value="H * 14")(document)
    assert Manifest.from_json(json.dumps(document)).entries[0].inputs[0].shape[2] == "H * 14"


def test_text_is_deterministic() -> None:
    shuffled = dataclasses.replace(
        MANIFEST,
        producer=dict(reversed(MANIFEST.producer.items())),
        dims=dict(reversed(MANIFEST.dims.items())),
    )
    text = MANIFEST.to_json()
    assert shuffled.to_json() == text
    assert text.endswith("}\n") and text == json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n"


def _set(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


def _remove(*path: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        del document[path[-1]]

    return change


INPUT = ("entries", 0, "inputs", 0)
DAMAGE = {
    "missing key": (_remove("name"), "the top level lacks the key 'name'"),
    "unknown key": (_set("extra", value=1), "the top level has an unknown key 'extra'"),
    "nested missing": (_remove(*INPUT, "dtype"), r"entries\[0\].inputs\[0\] lacks the key 'dtype'"),
    "nested unknown": (_set("dims", "N", "x", value=1), "dims.N has an unknown key 'x'"),
    "string for integer": (_set("dims", "N", "hi", value="64"), "dims.N.hi has the wrong type.*an integer"),
    "bool for integer": (_set("dims", "N", "hi", value=True), "dims.N.hi has the wrong type: given true"),
    "float for integer": (_set("dims", "N", "hi", value=64.0), "dims.N.hi has the wrong type: given 64.0"),
    "integer for string": (_set(*INPUT, "shape", 1, value=3), r"inputs\[0\].shape\[1\] has the wrong type.*a string"),
    "object for array": (_set("entries", value={}), "entries has the wrong type.*an array"),
    "array for object": (_set("dims", value=[]), "dims has the wrong type.*an object"),
    "negative": (_set("dims", "N", "lo", value=-1), "dims.N.lo is out of range: given -1"),
    "hi below lo": (_set("dims", "N", "hi", value=0), "dims.N.hi is out of range"),
    "step zero": (_set("dims", "N", "step", value=0), "dims.N.step is out of range"),
    "past int64": (_set("dims", "N", "hi", value=2**63), "dims.N.hi is out of range"),
    "dim name": (_set("dims", "a-b", value={"lo": 1, "hi": 1, "step": 1, "one_of": []}), "dims.a-b is not a dim name"),
    "bad size": (_set(*INPUT, "shape", 0, value="N**2"), r"shape\[0\] is not a size expression: given 'N\*\*2'"),
    "bad one_of": (_set("dims", "G", "one_of", 0, value="?"), r"dims.G.one_of\[0\] is not a size expression"),
    "dtype": (_set(*INPUT, "dtype", value="float31"), r"inputs\[0\].dtype is not a dtype: given 'float31'"),
    "alignment": (_set(*INPUT, "alignment", value=12), "alignment is no alignment: given 12, expected a power of two"),
    "undeclared dim": (_set(*INPUT, "shape", 0, value="Q"), r"entries\[0\] uses sizes that `dims` does not declare.*Q"),
    "unbound dim": (_set(*INPUT, "shape", 2, value="H+0"), r"no input states, as NAME or NAME \* INT: given H"),
    "unbound one_of": (_set("dims", "N", "one_of", value=["H*2", "Z"]), "does not declare: given Z"),
    "entry name": (_set("entries", 0, "name", value="a b"), r"entries\[0\].name is not an entry name"),
    "no entries": (_set("entries", value=[]), "entries is empty"),
    "reserved input": (_set(*INPUT, "name", value="out"), "inputs uses a reserved name: given 'out'"),
    "empty tensor name": (_set(*INPUT, "name", value=""), "name is empty"),
    "two inputs alike": (_set(*INPUT, "name", value="g"), "inputs has two elements with the same name"),
    "symbolic weight": (_set("weights", 0, "shape", 0, value="N"), r"weights\[0\] has a symbolic shape"),
    "library path": (_set("libraries", 0, "file", value="lib/../../x.so"), "file is not a library path"),
    "absolute library": (_set("libraries", 0, "file", value="/lib/x.so"), "file is not a library path"),
    "states": (_set("states", value=[{}]), "states must be empty in schema 1"),
    "schema zero": (_set("schema", value=0), "schema is out of range"),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_damage_is_refused_by_place(damage: str) -> None:
    change, words = DAMAGE[damage]
    document = json.loads(MANIFEST.to_json())
    change(document)
    with pytest.raises(BundleError, match=words) as caught:
        Manifest.from_json(json.dumps(document))
    assert str(caught.value).startswith("manifest.json: ") and "treadle compile" in str(caught.value)


def test_newer_schema_says_which_release_reads_it() -> None:
    document = json.loads(MANIFEST.to_json())
    document |= {"schema": 2, "something": "new"}
    document["producer"]["treadle"] = "0.9.0"
    with pytest.raises(BundleError, match=r"given schema 2, expected schema 1 or older. Install treadle 0.9.0 or newer"):
        Manifest.from_json(json.dumps(document))
    document["producer"] = "restructured"
    with pytest.raises(BundleError, match="Install treadle the release that wrote it or newer"):
        Manifest.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "data",
    [b"", b"[", b"\xff\xfe", b"[" * 100_000, b'{"schema": NaN}', b'{"schema": 1, "schema": 1}', b"1" * 5000, b"null"],
    ids=["empty", "cut", "not utf-8", "deep", "NaN", "twice", "huge number", "null"],
)
def test_what_is_not_json_or_no_object(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"^manifest.json: the top level"):
        Manifest.from_json(data)
