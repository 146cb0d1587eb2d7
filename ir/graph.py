"""Graphs: Programs composed into a model, their edges typed Values with symbolic sizes.

Every mistake of shape or dtype is found when a node is added, and named by node, argument, given and expected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import networkx as nx
from tvm import tirx

from treadle.errors import ArgumentError, BoundsError
from treadle.ir import dims as dm
from treadle.ir.dims import Dim, Size
from treadle.ir.program import Program, build


@dataclass(frozen=True)
class Init:
    """How a weight is drawn when none is given: normal(0, scale), or the constant `scale`."""

    kind: str  # "normal" | "constant"
    scale: float


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that flows along an edge. `base` is set on views: the same memory under another shape."""

    name: str
    shape: tuple[Size, ...]
    dtype: str
    base: Value | None = None

    @property
    def root(self) -> Value:
        """The value that owns the memory."""
        return self.base.root if self.base else self

    def __repr__(self) -> str:
        return f"{self.name} {self.dtype} {dm.shape_text(self.shape)}"


@dataclass(frozen=True, eq=False)
class Node:
    """One call of a Program; `sizes` binds the Program's free dimensions to sizes of the Graph."""

    name: str
    program: Program
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    sizes: Mapping[str, Size]

    @property
    def updated(self) -> tuple[Value, ...]:
        """The values whose memory the node writes, although they are its inputs."""
        names = self.program.updated
        return tuple(v.root for t, v in zip(self.program.args, self.inputs, strict=True) if t.op.name in names)


@dataclass
class Graph:
    """A model graph under construction, and then its finished statement."""

    name: str
    dims: dict[str, Dim] = field(default_factory=dict)
    inputs: dict[str, Value] = field(default_factory=dict)
    weights: dict[str, Value] = field(default_factory=dict)
    inits: dict[str, Init] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)
    digraph: nx.DiGraph = field(default_factory=nx.DiGraph)
    _symbols: dict[str, tirx.Var] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def dim(self, name: str, lo: int = 1, hi: int = dm.DEFAULT_HI, step: int = 1, one_of: Sequence[str] = ()) -> Size:
        """Declare a symbolic size with inclusive bounds; every legal value is a multiple of `step`."""
        if name in self.dims:
            raise ArgumentError(f"{self.name}: dimension {name} is declared twice")
        self.dims[name] = Dim(name, lo, hi, step, tuple(one_of))
        self._symbols[name] = dm.var(name)
        return self._symbols[name]

    def input(self, name: str, shape: Sequence[Size], dtype: str) -> Value:
        self.inputs[name] = self._value(name, shape, dtype)
        return self.inputs[name]

    def weight(self, name: str, shape: Sequence[int], dtype: str, init: Init) -> Value:
        """A parameter of constant shape, held by the bundle."""
        self.weights[name] = self._value(name, shape, dtype)
        self.inits[name] = init
        return self.weights[name]

    def view(self, value: Value, shape: Sequence[Size]) -> Value:
        """The same elements under another shape; no bytes move."""
        given, wanted = _product(value.shape), _product(shape)
        if not self.same(given, wanted):
            raise ArgumentError(
                f"{self.name}: view of {value.name} changes the number of elements",
                given=f"{dm.shape_text(value.shape)} -> {dm.shape_text(tuple(shape))}",
                expected="the same product",
            )
        return Value(value.name, tuple(shape), value.dtype, value)

    def call(
        self, name: str, program: str, *args: Value, attrs: Mapping[str, Any] | None = None, dtype: str | None = None
    ) -> Any:
        """Add a node; returns its output Value, or a tuple of them. dtype defaults to that of the first argument."""
        dtype = dtype or args[0].dtype
        frozen = tuple(sorted((attrs or {}).items()))
        pattern = _build(program, dtype, frozen, ())
        sizes = self._unify(name, pattern, args)
        numbers = tuple(sorted((n, c) for n, s in sizes.items() if (c := dm.constant(s)) is not None))
        special = _build(program, dtype, frozen, numbers)
        free = {n: s for n, s in sizes.items() if n not in special.bound}
        outputs = tuple(
            self._value(f"{name}.{t.op.name}", [dm.substitute(s, free) for s in t.shape], str(t.dtype)) for t in special.results
        )
        self._add(Node(name, special, args, outputs, free))
        return outputs[0] if len(outputs) == 1 else outputs

    def output(self, name: str, value: Value) -> None:
        """Name a result. It must be computed by a node, and be no other result too."""
        if value.root not in self.digraph or any(value.root is v.root for v in (*self.inputs.values(), *self.weights.values())):
            raise ArgumentError(
                f"{self.name}: output {name}", given=f"{value.name}, an input or weight", expected="a computed value"
            )
        if any(value.root is v.root for v in self.outputs.values()):
            raise ArgumentError(
                f"{self.name}: output {name}", given=f"{value.name}, already an output", expected="a value of its own"
            )
        self.outputs[name] = value

    @property
    def nodes(self) -> list[Node]:
        """The nodes that outputs and updates depend on, in the order they were added (which is a topological order)."""
        needed: set[Any] = {n for n in self.digraph if isinstance(n, Node) and n.updated}
        for value in [*needed, *(v.root for v in self.outputs.values())]:
            needed |= nx.ancestors(self.digraph, value)
        return [n for n in self.digraph if isinstance(n, Node) and n in needed]

    @property
    def updates(self) -> tuple[str, ...]:
        """The inputs that are updated in place, by name."""
        written = {v for n in self.nodes for v in n.updated}
        return tuple(name for name, value in self.inputs.items() if value in written)

    def same(self, a: Size, b: Size) -> bool:
        """Whether two sizes are equal for every legal value of the dimensions (a multiple of 14 is 14 times something)."""
        return dm.same(a, b, {n: d.step for n, d in self.dims.items()})

    def _value(self, name: str, shape: Sequence[Size], dtype: str) -> Value:
        if name in self._names:
            raise ArgumentError(f"{self.name}: the name {name} is used twice")
        self._names.add(name)
        return Value(name, tuple(shape), dtype)

    def _add(self, node: Node) -> None:
        for updated in node.updated:
            if not any(updated is v for v in self.inputs.values()):
                raise ArgumentError(
                    f"{self.name}: node {node.name} updates {updated.name}", given="a weight or a computed value",
                    expected="an input of the graph: what is updated is the caller's memory",
                )  # fmt: skip
            self._sole(node, updated)
        for other in self.digraph:
            for updated in other.updated if isinstance(other, Node) else ():
                if any(v.root is updated for v in node.inputs):
                    self._sole(other, updated, node)
        self.digraph.add_node(node)
        self.digraph.add_edges_from((v.root, node) for v in node.inputs)
        self.digraph.add_edges_from((node, v) for v in node.outputs)

    def _sole(self, node: Node, updated: Value, reader: Node | None = None) -> None:
        """Refuse a second reader of what a node updates: which of its contents that one would see, the graph does not say."""
        readers = [*([reader] if reader else []), *(self.digraph.successors(updated) if updated in self.digraph else ())]
        found = next((r for r in readers if r is not node), None)
        if found is not None or sum(v.root is updated for v in node.inputs) > 1:
            raise ArgumentError(
                f"{self.name}: node {node.name} updates {updated.name}", given=f"{(found or node).name} reads it too",
                expected="an input that no other argument is",
            )  # fmt: skip

    def _unify(self, node: str, program: Program, args: Sequence[Value]) -> dict[str, Size]:
        """Bind the Program's dimensions by matching each argument's shape against the given Value's."""
        where = f"{self.name}: node {node} ({program.name})"
        if len(args) != len(program.args):
            raise ArgumentError(f"{where}: number of arguments", given=len(args), expected=[t.op.name for t in program.args])
        sizes: dict[str, Size] = {}
        origin: dict[str, str] = {}
        pairs = [(t, v, i) for t, v in zip(program.args, args, strict=True) for i in range(len(t.shape))]
        for tensor, value in zip(program.args, args, strict=True):
            what = f"{where}, argument {tensor.op.name}"
            if value.dtype != str(tensor.dtype):
                raise ArgumentError(f"{what}: dtype", given=f"{value.dtype} ({value.name})", expected=str(tensor.dtype))
            if len(value.shape) != len(tensor.shape):
                raise ArgumentError(f"{what}: rank", given=repr(value), expected=dm.shape_text(tensor.shape))
        for tensor, value, i in pairs:
            symbol, factor = dm.scaled_symbol(tensor.shape[i])
            if symbol and symbol not in sizes:
                size = value.shape[i] if factor == 1 else dm.simplify(value.shape[i] // factor)
                sizes[symbol], origin[symbol] = size, f"{tensor.op.name}.shape[{i}]"
        for tensor, value, i in pairs:
            expected = dm.substitute(tensor.shape[i], sizes)
            if not self.same(value.shape[i], expected):
                names = ", ".join(
                    f"{s.name} = {dm.text(sizes[s.name])} from {origin[s.name]}" for s in dm.symbols(tensor.shape[i])
                )
                raise ArgumentError(
                    f"{where}, argument {tensor.op.name}: size of axis {i}",
                    given=f"{dm.text(value.shape[i])} ({value.name} {dm.shape_text(value.shape)})",
                    expected=f"{dm.text(expected)}" + (f" ({names})" if names else ""),
                )
        highest = {n: d.hi for n, d in self.dims.items()}
        for n, size in sizes.items():
            if (top := dm.evaluate(size, highest)) > program.dims[n].hi:
                raise BoundsError(
                    f"{where}: dimension {n}", given=f"{dm.text(size)} up to {top}", expected=f"at most {program.dims[n].hi}"
                )
        return sizes


def single(program: Program) -> Graph:
    """The Graph of one Program: its arguments are the inputs, its results the outputs."""
    graph = Graph(program.name)
    for n, d in program.dims.items():
        if n not in program.bound:
            graph.dim(n, d.lo, d.hi, d.step, d.one_of)

    def value(tensor: Any) -> Value:
        return Value(tensor.op.name, tuple(dm.substitute(s, graph._symbols) for s in tensor.shape), str(tensor.dtype))

    graph.inputs = {t.op.name: value(t) for t in program.args}
    graph.outputs = {t.op.name: value(t) for t in program.results}
    free = dict(graph._symbols)
    graph._add(Node(program.name, program, tuple(graph.inputs.values()), tuple(graph.outputs.values()), free))
    return graph


@cache
def _build(name: str, dtype: str, attrs: tuple[tuple[str, Any], ...], dims: tuple[tuple[str, int], ...]) -> Program:
    return build(name, dtype, dict(attrs), dict(dims))


def _product(shape: Sequence[Size]) -> Size:
    total: Size = 1
    for s in shape:
        total = s * total
    return total
