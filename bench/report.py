"""A benchmark's result: rows of numbers, how to print them, and where and how they were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from treadle.bench import machine


@dataclass(frozen=True)
class Column:
    """A heading (a leading ">" aligns right), the row's key, and how its value is written."""

    heading: str
    key: str
    format: Callable[[Any], str] = str


@dataclass(frozen=True)
class Report:
    """`facts` holds what is not a row, such as the copy bandwidth; `remarks` are printed below the table."""

    name: str
    title: str
    layout: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    method: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    where: Mapping[str, Any] = field(default_factory=machine.describe)

    @property
    def columns(self) -> list[str]:
        return [c.heading for c in self.layout]

    def cells(self) -> list[list[str]]:
        return [["-" if row.get(c.key) is None else c.format(row[c.key]) for c in self.layout] for row in self.rows]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as committed under bench/results/."""
        return {"bench": self.name, **self.where, "method": self.method, **self.facts, "rows": [dict(r) for r in self.rows]}


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}" if seconds < 1e-2 else f"{seconds * 1e3:.1f}"


def giga(value: float) -> str:
    return f"{value / 1e9:.1f}"


def percent(share: float) -> str:
    return f"{share:.0%}"


def times(ratio: float) -> str:
    return f"{ratio:.1f}x"
