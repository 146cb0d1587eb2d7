"""What a command line speaks of: PROGRAM or MODEL[:CONFIG], as a Graph with its flags applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict

from treadle.cli import flags
from treadle.errors import BoundsError, UnknownNameError
from treadle.ir import build, definitions
from treadle.ir.graph import Graph, single
from treadle.models import SYSTEMS, configurations
from treadle.models import build as build_model

Dims = Mapping[str, "int | tuple[int, int]"]


def is_model(name: str) -> bool:
    """Whether `name` is a model's; UnknownNameError where it is no program's either."""
    system = name.partition(":")[0]
    if system in SYSTEMS:
        return True
    if name not in definitions():
        raise UnknownNameError.unknown("program or model", name, [*definitions(), *model_names()])
    return False


def model_names() -> list[str]:
    return [f"{system}:{configuration}" for system in SYSTEMS for configuration in configurations(system)]


def graph(name: str, dtype: str, attrs: Iterable[str] | None, dims: Dims) -> Graph:
    """The Graph of a program or model under its flags; a model without a configuration is the first one listed."""
    if not is_model(name):
        given = flags.attrs(attrs, {n: a.default for n, a in definitions()[name].attrs.items()})
        return single(build(name, dtype, given, dims))
    system, _, configuration = name.partition(":")
    configs = configurations(system)
    configuration = configuration or next(iter(configs))
    known = asdict(configs[configuration]) if configuration in configs else {}
    options = flags.attrs(attrs, known)
    for option in options if known else ():
        if option not in known:
            raise UnknownNameError.unknown(f"attribute of model {system}", option, known)
    model = build_model(system, configuration, dtype, **options)
    _narrow(model, dims)
    return model


def _narrow(graph: Graph, dims: Dims) -> None:
    """Tighter bounds for a model's sizes: a smaller arena, and a clear refusal of anything else."""
    for name, wanted in dims.items():
        if name not in graph.dims:
            raise UnknownNameError.unknown(f"dimension of {graph.name}", name, graph.dims)
        lo, hi = wanted if isinstance(wanted, tuple) else (wanted, wanted)
        dim = graph.dims[name].within(lo, hi)
        if hi // dim.step * dim.step < lo:
            raise BoundsError(f"bounds of dimension {name}", given=f"{lo}..{hi}", expected=f"a multiple of {dim.step} inside")
        graph.dims[name] = dim
