"""Finds a system's configurations and builds its Graph."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from treadle.errors import UnknownNameError

if TYPE_CHECKING:
    from treadle.ir.graph import Graph

#: system -> module; each has CONFIGS (name -> configuration) and graph.build(config, dtype) -> Graph.
SYSTEMS = {"cgspn": "treadle.models.cgspn"}


def configurations(system: str) -> dict[str, Any]:
    if system not in SYSTEMS:
        raise UnknownNameError.unknown("model", system, SYSTEMS)
    return dict(importlib.import_module(f"{SYSTEMS[system]}.config").CONFIGS)


def build(system: str, configuration: str, dtype: str = "float32", **options: Any) -> Graph:
    """The Graph of a system, e.g. build("cgspn", "tiny"); options replace fields of the configuration."""
    configs = configurations(system)
    if configuration not in configs:
        raise UnknownNameError.unknown(f"configuration of model {system}", configuration, configs)
    module = importlib.import_module(f"{SYSTEMS[system]}.graph")
    return module.build(configuration, configs[configuration], dtype, **options)
