"""Plan: a Graph made executable.

Order, kernels, and where each value lives. Intermediate values share regions of one arena: a region is free again after the
last reader of its value, and the next value takes the free region that fits best. Which fits is judged at the largest
legal sizes, so the bound on the arena is what is minimised; region sizes stay expressions of the symbolic sizes, so a small
call uses a small arena.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from treadle.dtypes import dtype as find_dtype
from treadle.ir import dims as dm
from treadle.ir.dims import Size
from treadle.ir.graph import Graph, Node, Value

ENTRY = "main"
#: Regions start at multiples of this, so that every internal pointer suits the widest vector load of any target.
ALIGN = 256


@dataclass
class Region:
    """A piece of the arena: as large as the largest of the values that take turns in it."""

    name: str
    sizes: list[Size] = field(default_factory=list)

    @property
    def bytes(self) -> str:
        texts = [dm.text(s) for s in self.sizes]
        expr = texts[-1]
        for t in reversed(texts[:-1]):
            expr = f"max({t}, {expr})"
        return expr

    def hold(self, size: Size, steps: Mapping[str, int]) -> None:
        """Make room for one more value; of two sizes in a constant ratio only the larger counts."""
        for i, known in enumerate(self.sizes):
            if dm.proportional(size, known, steps):
                highest = {v.name: dm.DEFAULT_HI * steps.get(v.name, 1) for v in dm.symbols(size)}
                if dm.evaluate(size, highest) > dm.evaluate(known, highest):
                    self.sizes[i] = size
                return
        self.sizes.append(size)


@dataclass(frozen=True)
class Place:
    """Where a value lives: an input, output, weight or arena region, by name."""

    kind: str
    of: str


@dataclass
class Plan:
    """One entry point: its steps in order, and the places of their arguments."""

    graph: Graph
    nodes: list[Node]
    places: dict[Value, Place]
    regions: list[Region]
    #: arena bytes at the largest legal sizes, without and with reuse
    bytes_without: int
    bytes_with: int
    at: Mapping[str, int]

    @property
    def saved(self) -> int:
        return self.bytes_without - self.bytes_with

    def place(self, value: Value) -> Place:
        return self.places[value.root]

    def to_json(self) -> dict[str, Any]:
        """The plan as `plan.json` holds it; the schema is documented in `treadle.runtime.interpreter`."""
        values: dict[str, Any] = {}
        steps = []
        for node in self.nodes:
            names = []
            for value in (*node.inputs, *node.outputs):
                shape = [dm.text(s) for s in value.shape]
                name = value.name if value.base is None else f"{value.name} as [{', '.join(shape)}]"
                place = self.place(value)
                values[name] = {"shape": shape, "dtype": value.dtype, "place": place.kind, "of": place.of}
                names.append(name)
            steps.append({"node": node.name, "kernel": node.program.symbol, "args": names})
        entry = {
            "arena": [{"name": r.name, "bytes": r.bytes} for r in self.regions],
            "values": values,
            "steps": steps,
        }
        reuse = {"bytes_without": self.bytes_without, "bytes_with": self.bytes_with, "at": dict(self.at)}
        return {"schema": 1, "entries": {ENTRY: entry}, "reuse": reuse}


def plan(graph: Graph) -> Plan:
    """Order a Graph and place its values."""
    nodes = graph.nodes
    places: dict[Value, Place] = {v: Place("input", n) for n, v in graph.inputs.items()}
    places |= {v: Place("weight", n) for n, v in graph.weights.items()}
    places |= {v.root: Place("output", n) for n, v in graph.outputs.items()}

    highest = {n: d.hi - d.hi % d.step for n, d in graph.dims.items()}
    steps = {n: d.step for n, d in graph.dims.items()}
    last_use = {v.root: i for i, node in enumerate(nodes) for v in node.inputs}
    regions: list[Region] = []
    extent: dict[str, int] = {}  # bytes of each region at the largest sizes
    free: list[Region] = []
    without = 0

    for i, node in enumerate(nodes):
        # Outputs are placed before this node's inputs are released: a kernel never writes what it reads.
        for value in node.outputs:
            if value in places:
                continue
            size = _bytes(value)
            need = dm.evaluate(size, highest)
            without += _aligned(need)
            region = _best_fit(free, extent, need)
            if region is None:
                region = Region(f"r{len(regions)}")
                regions.append(region)
            else:
                free.remove(region)
            region.hold(size, steps)
            extent[region.name] = max(extent.get(region.name, 0), need)
            places[value] = Place("arena", region.name)
        done = [v.root for v in (*node.inputs, *node.outputs) if last_use.get(v.root, i) == i]
        for value in dict.fromkeys(done):
            if places[value].kind == "arena":
                free.append(next(r for r in regions if r.name == places[value].of))

    total = sum(_aligned(extent[r.name]) for r in regions)
    return Plan(graph, nodes, places, regions, without, total, highest)


def _best_fit(free: list[Region], extent: Mapping[str, int], need: int) -> Region | None:
    """The smallest free region that is large enough, else the largest one, which then grows."""
    if not free:
        return None
    fitting = [r for r in free if extent[r.name] >= need]
    return min(fitting, key=lambda r: extent[r.name]) if fitting else max(free, key=lambda r: extent[r.name])


def _bytes(value: Value) -> Size:
    total: Size = find_dtype(value.dtype).itemsize
    for s in value.shape:
        total = total * s
    return dm.simplify(total)


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
