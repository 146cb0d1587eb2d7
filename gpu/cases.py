"""What the kit holds of each kernel, as plain data: enough to list, call, check and time it where there is no TVM."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from treadle.runtime.sizes import size_expr

FILE = "cases.json"
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Tensor:
    """An argument or result; `within` draws it evenly from that far around zero, where normal values would blow a scan up."""

    name: str
    shape: tuple[str, ...]
    dtype: str
    within: float | None = None

    def sizes(self, sizes: Sizes) -> list[int]:
        return [size_expr(s).evaluate(sizes) for s in self.shape]


@dataclass(frozen=True)
class Work:
    """A call's sizes, the bytes that must cross the memory bus once, and its floating-point operations."""

    sizes: Sizes
    bytes: int
    flops: int


@dataclass(frozen=True)
class Case:
    """One kernel: what it computes, how and by which route it was made, and at which sizes it is checked and timed.

    `route` is C for a library of ours, which needs the CUDA runtime alone, and B for TVM's own, which needs TVM's loader.
    """

    program: str
    dtype: str
    attrs: Mapping[str, Any]
    schedule: str
    point: Mapping[str, Any]
    default: bool
    route: str
    library: str
    symbol: str
    args: tuple[Tensor, ...]
    results: tuple[Tensor, ...]
    checked: tuple[Work, ...]
    timed: Work | None
    #: the rung of a ladder of schedules, timed at sizes of its own beside the others
    rung: int | None = None

    @property
    def title(self) -> str:
        point = "" if self.default else f"{self.schedule} {plain(self.point)}"
        route = "by route B" if self.route == "B" else ""
        return " ".join(filter(None, (self.program, self.dtype, plain(self.attrs), point, route)))

    @property
    def head(self) -> dict[str, Any]:
        """How rows of results name the kernel."""
        kept = ("program", "dtype", "attrs", "schedule", "point", "default", "route")
        return {name: getattr(self, name) for name in kept} | ({} if self.rung is None else {"rung": self.rung})


def plain(values: Mapping[str, Any]) -> str:
    return " ".join(f"{n}={v}" for n, v in values.items())


def write(folder: Path, target: str, cases: Sequence[Case], remarks: Sequence[Mapping[str, str]]) -> None:
    kept = {"target": target, "cases": [asdict(c) for c in cases], "remarks": list(remarks)}
    (folder / FILE).write_text(json.dumps(kept, indent=1) + "\n")


def read(folder: Path) -> tuple[str, list[Case], list[dict[str, str]]]:
    """The target that the kernels were compiled for, the cases, and which kernels are to be remarked on, and why."""
    kept = json.loads((folder / FILE).read_text())
    return kept["target"], [_case(c) for c in kept["cases"]], kept["remarks"]


def _case(kept: dict[str, Any]) -> Case:
    for field in ("args", "results"):
        kept[field] = tuple(Tensor(**{**t, "shape": tuple(t["shape"])}) for t in kept[field])
    kept["checked"] = tuple(Work(**w) for w in kept["checked"])
    kept["timed"] = Work(**kept["timed"]) if kept["timed"] else None
    return Case(**kept)
