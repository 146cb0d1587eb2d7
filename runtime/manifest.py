"""manifest.json: what a bundle offers, as plain dataclasses.

The manifest is the contract between `codegen`, which writes it, and every
runtime that reads it.  `from_json` is strict and checks meaning as well as
shape, so code that holds a Manifest can trust it without looking again.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from treadle.dtypes import DTYPES
from treadle.errors import ArgumentError, BoundsError, BundleError
from treadle.runtime import strict_json
from treadle.runtime.sizes import INT64_MAX, size_expr
from treadle.runtime.strict_json import Node
from treadle.runtime.sums import plain_path

SCHEMA = 1
FILE = "manifest.json"

# `Session.run(entry=..., out=..., stream=..., **inputs)`: an input could not be passed under these names.
_RESERVED_INPUTS = ("entry", "out", "stream")
_DIM_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Dim:
    """Bounds of one symbolic size; `one_of` holds size expressions, empty for no constraint."""

    lo: int = 1
    hi: int = INT64_MAX
    step: int = 1
    one_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's name, shape (size expressions), dtype and the alignment its kernels need."""

    name: str
    shape: tuple[str, ...]
    dtype: str
    alignment: int


@dataclass(frozen=True)
class Entry:
    """One callable: tensors in, tensors out, in the order of the library's arguments; `updates` names inputs it writes."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    updates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Library:
    """One compiled library and the CPU features (as in /proc/cpuinfo) it was compiled for."""

    target: str
    file: str
    cpu_features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime must know before it loads code."""

    name: str
    producer: Mapping[str, str]
    dims: Mapping[str, Dim]
    entries: tuple[Entry, ...]
    weights: tuple[TensorSpec, ...]
    libraries: tuple[Library, ...]

    def to_json(self) -> str:
        """Deterministic text: equal manifests give equal bytes. `updates` stands only where there are any."""
        made = {"schema": SCHEMA, "states": [], **dataclasses.asdict(self)}
        for entry in made["entries"]:
            if not entry["updates"]:
                del entry["updates"]
        return strict_json.dump(made)

    @classmethod
    def from_json(cls, data: bytes | str) -> Manifest:
        """Read and check; every refusal is a BundleError naming the place in the file."""
        top = strict_json.parse(data.encode() if isinstance(data, str) else data, FILE)
        _check_schema(top)
        _, name, producer, dims, entries, weights, states, libraries = top.fields(
            "schema", "name", "producer", "dims", "entries", "weights", "states", "libraries"
        )
        if list(states.items()):
            states.refuse(f"must be empty in schema {SCHEMA}")
        manifest = cls(
            name=name.string(),
            producer={key: node.string() for key, node in producer.entries()},
            dims={key: _dim(key, node) for key, node in dims.entries()},
            entries=_unique(entries, "name", [_entry(node) for node in entries.items()]),
            weights=_unique(weights, "name", [_tensor(node) for node in weights.items()]),
            libraries=_unique(libraries, "target", [_library(node) for node in libraries.items()]),
        )
        if not manifest.entries:
            entries.refuse("is empty", expected="at least one entry point")
        for entry, node in zip(manifest.entries, entries.items(), strict=True):
            _check_dims(entry, manifest.dims, node)
        for weight, node in zip(manifest.weights, weights.items(), strict=True):
            if any(size_expr(size).names for size in weight.shape):
                node.refuse("has a symbolic shape", given=list(weight.shape), expected="integers")
        return manifest


def _check_schema(top: Node) -> None:
    """Before anything else: a newer file may differ everywhere but in `schema` and `producer`."""
    schema = top.field("schema").integer(lo=1)
    if schema > SCHEMA:
        try:
            release = top.field("producer").field("treadle").string()
        except BundleError:
            release = "the release that wrote it"
        raise BundleError(
            f"{FILE}: the bundle is written in a schema newer than this runtime reads",
            given=f"schema {schema}",
            expected=f"schema {SCHEMA} or older",
            hint=f"Install treadle {release} or newer, or compile the bundle again with this one.",
        )


def _dim(name: str, node: Node) -> Dim:
    if not _DIM_NAME.fullmatch(name) or name in ("min", "max"):
        node.refuse("is not a dim name", given=repr(name), expected="an identifier")
    lo, hi, step, one_of = node.fields("lo", "hi", "step", "one_of")
    low = lo.integer()
    dim = Dim(low, hi.integer(lo=low), step.integer(lo=1), one_of.strings())
    for text, item in zip(dim.one_of, one_of.items(), strict=True):
        _check_size(text, item)
    return dim


def _tensor(node: Node) -> TensorSpec:
    name, shape, dtype, alignment = node.fields("name", "shape", "dtype", "alignment")
    tensor = TensorSpec(name.string(), shape.strings(), dtype.string(), alignment.integer(lo=1))
    if not tensor.name:
        name.refuse("is empty")
    for text, item in zip(tensor.shape, shape.items(), strict=True):
        _check_size(text, item)
    if tensor.dtype not in DTYPES:
        dtype.refuse("is not a dtype", given=repr(tensor.dtype), expected=", ".join(DTYPES))
    if tensor.alignment & (tensor.alignment - 1):
        alignment.refuse("is no alignment", given=tensor.alignment, expected="a power of two")
    return tensor


def _entry(node: Node) -> Entry:
    name, inputs, outputs, *updates = node.fields("name", "inputs", "outputs", maybe="updates")
    entry = Entry(
        name.string(),
        _unique(inputs, "name", [_tensor(item) for item in inputs.items()]),
        _unique(outputs, "name", [_tensor(item) for item in outputs.items()]),
        updates[0].strings() if updates else (),
    )
    for item, updated in zip(updates[0].items() if updates else (), entry.updates, strict=True):
        if updated not in (tensor.name for tensor in entry.inputs):
            item.refuse("is no input of the entry", given=repr(updated))
    if not _DIM_NAME.fullmatch(entry.name):  # it becomes part of a C symbol
        name.refuse("is not an entry name", given=repr(entry.name), expected="an identifier")
    for tensor in entry.inputs:
        if tensor.name in _RESERVED_INPUTS:
            inputs.refuse("uses a reserved name", given=repr(tensor.name), expected="another name")
    return entry


def _library(node: Node) -> Library:
    target, file, features = node.fields("target", "file", "cpu_features")
    if not (file.string().startswith("lib/") and plain_path(file.string())):
        file.refuse("is not a library path", given=repr(file.string()), expected="lib/NAME.so")
    return Library(target.string(), file.string(), features.strings())


def _check_size(text: str, node: Node) -> None:
    try:
        size_expr(text)
    except (ArgumentError, BoundsError) as wrong:
        node.refuse("is not a size expression", given=wrong.given, expected=wrong.expected)


def _check_dims(entry: Entry, dims: Mapping[str, Dim], node: Node) -> None:
    """Every dim an entry reads is declared, and some input's shape states it, outright or times a number."""
    bound = {binds[0] for tensor in entry.inputs for size in tensor.shape if (binds := size_expr(size).binds)}
    tensors = entry.inputs + entry.outputs
    read = {name for t in tensors for size in t.shape for name in size_expr(size).names}
    read |= {n for d in read & dims.keys() for e in dims[d].one_of for n in size_expr(e).names}

    def refuse(kind: str, names: Iterable[str]) -> NoReturn:
        node.refuse(f"uses sizes that {kind}", given=", ".join(sorted(names)))

    if unknown := read - dims.keys():
        refuse("`dims` does not declare", unknown)
    if unbound := read - bound:
        refuse("no input states, as NAME or NAME * INT", unbound)


def _unique(node: Node, key: str, items: list[Any]) -> tuple[Any, ...]:
    names = [getattr(item, key) for item in items]
    for name in names:
        if names.count(name) > 1:
            node.refuse(f"has two elements with the same {key}", given=repr(name))
    return tuple(items)
