"""The systems' model graphs, composed from Programs: `build(system, configuration)` gives a Graph."""

from treadle.models.registry import SYSTEMS, build, configurations

__all__ = ["SYSTEMS", "build", "configurations"]
