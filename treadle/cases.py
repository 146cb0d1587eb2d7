"""Random cases of Programs: attributes, sizes and inputs chosen to be awkward rather than typical.

Everything is drawn from a numpy Generator seeded by (seed, what is drawn, which one), so any single case can be drawn again.
"""

from __future__ import annotations

import importlib
import math
import zlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.dtypes import dtype as find_dtype
from treadle.ir import Program, build
from treadle.ir import dims as dm
from treadle.ir import expr as ex
from treadle.ir.program import Attr, Definition
from treadle.runtime.sizes import size_expr

if TYPE_CHECKING:
    import torch

#: One, primes, powers of two and their neighbours: ragged tails of every vector width and tile.
AWKWARD = (1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 23, 31, 32, 33, 47, 63, 64, 65, 97, 129, 200)

#: Work of one case: keeps thousands of them, each with two torch oracles, within minutes.
_MAX_BYTES, _MAX_FLOPS = 1 << 17, 1 << 21
_BIND = 0.3  # share of Programs with some dimensions fixed at compile time


def generator(seed: int, *what: str | int) -> np.random.Generator:
    return np.random.default_rng([seed, *(zlib.crc32(w.encode()) if isinstance(w, str) else w for w in what)])


def draw_program(definition: Definition, dtype: str, rng: np.random.Generator) -> Program:
    """The Program with random attributes and, now and then, some of its dimensions bound."""
    few = getattr(_oracle(definition.name), "DRAWN", {})
    attrs = {n: few[n][rng.integers(len(few[n]))] if n in few else _attr(a, rng) for n, a in definition.attrs.items()}
    free = build(definition.name, dtype, attrs)
    if rng.random() >= _BIND:
        return free
    sizes = draw_sizes(free, rng)
    bound = {n for n in free.dims if rng.random() < 0.5}
    # A dimension that follows others (G = 1 or C) is bound with them or not at all.
    bound = {n for n in bound if all(bound.issuperset(size_expr(o).names) for o in free.dims[n].one_of)}
    return build(definition.name, dtype, attrs, {n: sizes[n] for n in bound})


def draw_sizes(program: Program, rng: np.random.Generator, part: int = 1) -> dict[str, int]:
    """A size for every dimension, bound ones included, small enough to check quickly: `part` divides the work."""
    free = [n for n, d in program.dims.items() if n not in program.bound and not d.one_of]
    sizes = {**program.bound}
    for n in free:
        dim = program.dims[n]
        fitting = [s for s in AWKWARD if dim.lo <= s <= dim.hi and s % dim.step == 0]
        sizes[n] = int(rng.choice(fitting or [-(-dim.lo // dim.step) * dim.step]))
    choice = {n: d.one_of[rng.integers(len(d.one_of))] for n, d in program.dims.items() if d.one_of and n not in program.bound}

    def complete() -> dict[str, int]:
        return {n: size_expr(choice[n]).evaluate(sizes) if n in choice else sizes[n] for n in program.dims}

    while True:
        cost = program.cost(complete())
        held = max(cost.bytes, _held(program, complete()))
        large = [n for n in free if sizes[n] // 2 >= program.dims[n].lo and program.dims[n].step == 1]
        if (held * part <= _MAX_BYTES and cost.flops * part <= _MAX_FLOPS) or not large:
            return complete()
        shrunk = max(large, key=lambda n: sizes[n]) if rng.random() < 0.7 else str(rng.choice(large))
        sizes[shrunk] //= 2


def _held(program: Program, sizes: Mapping[str, int]) -> int:
    """Bytes of all arguments and results: of what is updated in place a call may touch only a part."""
    tensors = (*program.args, *program.results)
    return sum(math.prod(dm.evaluate(s, sizes) for s in t.shape) * find_dtype(str(t.dtype)).itemsize for t in tensors)


def draw_inputs(program: Program, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Normal values, rounded to the Program's dtype; what multiplies a scan's carry is scaled so that no step amplifies.

    Operands that must fit each other (tables, slots) are the oracle's to choose, by its `inputs`.
    """
    import torch

    inputs = {}
    contracting = _carry_weights(program)
    for arg in program.args:
        shape = [dm.evaluate(s, sizes) for s in arg.shape]
        name = arg.op.name
        terms = contracting.get(name)
        data = rng.uniform(-1, 1, shape) / terms if terms else rng.standard_normal(shape)
        inputs[name] = torch.from_numpy(data.astype(np.float32)).to(getattr(torch, str(arg.dtype)))
    own = getattr(_oracle(program.name), "inputs", None)
    return own(program, inputs, sizes, rng) if own else inputs


def _oracle(program: str) -> ModuleType | None:
    """The module of a Program's oracle; it may choose what is drawn."""
    try:
        return importlib.import_module(f"treadle.ir.oracles.{program}")
    except ModuleNotFoundError:
        return None


def _carry_weights(program: Program) -> dict[str, int]:
    """The tensors that multiply the carry of a scan, with the number of its terms."""
    scan = program.scan
    if scan is None:
        return {}
    used = [s for t in scan.terms for s in ex.symbols(t.weight)]
    names = [n for n, s in scan.symbols.items() if any(s.same_as(u) for u in used)]
    return {scan.reads[n].tensor.op.name: len(scan.terms) for n in names}


def _attr(attr: Attr, rng: np.random.Generator) -> Any:
    if attr.choices:
        return attr.choices[rng.integers(len(attr.choices))]
    if isinstance(attr.default, float):
        if attr.default in (0.0, math.inf):  # a limit that is none
            return float(rng.choice([attr.default, attr.default, 1e-3, 0.1, 2.0]))
        return attr.default * 10.0 ** int(rng.integers(-1, 4))
    if isinstance(attr.default, int):
        return int(attr.minimum or 0) + int(rng.choice([0, 1, 2, 3, 7, 13]))
    return attr.default
