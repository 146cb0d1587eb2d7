"""plan.json: how an entry point is made of kernel calls, as plain dataclasses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from treadle.dtypes import DTYPES
from treadle.errors import ArgumentError, BoundsError, BundleError
from treadle.runtime.manifest import Dim, Entry, Manifest, TensorSpec
from treadle.runtime.sizes import INT64_MAX, SizeExpr, size_expr
from treadle.runtime.strict_json import Node

SCHEMA = 1

#: Regions of the arena start at multiples of this many bytes.
REGION_ALIGNMENT = 256


@dataclass(frozen=True)
class Region:
    """A stretch of the arena; several values may use it one after another."""

    name: str
    bytes: SizeExpr


@dataclass(frozen=True)
class Value:
    """One tensor of the plan: where it lives and how it is read there."""

    name: str
    shape: tuple[SizeExpr, ...]
    dtype: str
    place: str  #: input, output, weight or arena
    of: str  #: the input, output, weight or region there

    def check_fits(self, needed: int, held: int) -> None:
        """The plan's own consistency, which only holds or fails for given sizes."""
        if needed > held:
            raise BundleError(
                f"plan.json: value {self.name} does not fit its arena region {self.of}",
                given=f"{needed} B",
                expected=f"at most {held} B",
                hint="This is a fault of the compiler; please report it with the bundle.",
            )


@dataclass(frozen=True)
class Step:
    """One kernel call; `args` are value names."""

    node: str
    kernel: str
    args: tuple[str, ...]


@dataclass(frozen=True)
class PlanEntry:
    """The plan of one entry point."""

    arena: tuple[Region, ...]
    values: Mapping[str, Value]
    steps: tuple[Step, ...]


def read_plan(top: Node, entry: Entry, manifest: Manifest) -> PlanEntry:
    """The plan of `entry`; every name it uses is checked against the manifest."""
    schema, entries, _ = top.fields("schema", "entries", "reuse")
    schema.integer(lo=SCHEMA, hi=SCHEMA)
    arena, values, steps = entries.field(entry.name).fields("arena", "values", "steps")
    regions = tuple(_region(node, manifest) for node in arena.items())
    ports = {"input": entry.inputs, "output": entry.outputs, "weight": manifest.weights}
    known = {place: {tensor.name for tensor in tensors} for place, tensors in ports.items()}
    known["arena"] = {region.name for region in regions}
    read = {name: _value(name, node, known, manifest) for name, node in values.entries()}
    tensors = {(place, tensor.name): tensor for place, tensors in ports.items() for tensor in tensors}
    sizes = _some_sizes(manifest.dims)
    for name, node in values.entries():
        if port := tensors.get((read[name].place, read[name].of)):
            _check_port(read[name], port, sizes, node)
    if unwritten := known["output"] - {value.of for value in read.values() if value.place == "output"}:
        values.refuse("lacks outputs of the manifest", given=sorted(unwritten), expected="a value for each")
    return PlanEntry(regions, read, tuple(_step(node, read) for node in steps.items()))


def _region(node: Node, manifest: Manifest) -> Region:
    name, size = node.fields("name", "bytes")
    return Region(name.string(), _size(size, manifest))


def _value(name: str, node: Node, known: Mapping[str, set[str]], manifest: Manifest) -> Value:
    shape, dtype, place, of = node.fields("shape", "dtype", "place", "of")
    sizes = tuple(_size(size, manifest) for size in shape.items())
    value = Value(name, sizes, dtype.string(), place.string(), of.string())
    if value.dtype not in DTYPES:
        dtype.refuse("is not a dtype", given=value.dtype, expected=", ".join(DTYPES))
    if value.place not in known:
        place.refuse("is not a place", given=value.place, expected=", ".join(known))
    if value.of not in known[value.place]:
        of.refuse(f"is no {value.place} of this entry", given=value.of)
    return value


def _some_sizes(dims: Mapping[str, Dim]) -> dict[str, int]:
    """A size of each dim, all different, so that two expressions which are equal here are hardly equal by chance."""
    return {name: min(dims[name].step * (1009 + i), INT64_MAX) for i, name in enumerate(sorted(dims))}


def _check_port(value: Value, port: TensorSpec, sizes: Mapping[str, int], node: Node) -> None:
    """A value over the caller's memory has the manifest's dtype and as many elements; its shape may be a view's."""
    if value.dtype != port.dtype:
        node.field("dtype").refuse("is not the manifest's", given=value.dtype, expected=port.dtype)
    here = node.field("shape")
    if _elements(value.shape, sizes, here) != _elements(map(size_expr, port.shape), sizes, here):
        shape = [size.text for size in value.shape]
        here.refuse("has not the manifest's elements", given=shape, expected=list(port.shape))


def _elements(shape: Iterable[SizeExpr], sizes: Mapping[str, int], node: Node) -> int:
    count = 1
    for size in shape:
        count *= size.evaluate(sizes)
        if count > INT64_MAX:
            node.refuse("overflows")
    return count


def _step(node: Node, values: Mapping[str, Value]) -> Step:
    name, kernel, args = node.fields("node", "kernel", "args")
    step = Step(name.string(), kernel.string(), args.strings())
    for arg in step.args:
        if arg not in values:
            args.refuse("uses a value that is not defined", given=repr(arg))
    return step


def _size(node: Node, manifest: Manifest) -> SizeExpr:
    text = node.string()
    try:
        size = size_expr(text)
    except (ArgumentError, BoundsError) as wrong:
        node.refuse("is not a size expression", given=wrong.given, expected=wrong.expected)
    for name in size.names:
        if name not in manifest.dims:
            node.refuse("uses an unknown dim", given=name, expected=", ".join(manifest.dims))
    return size
