"""The C-GSPN encoder as a bundle: against its oracle, and, on CUDA, captured into a graph and timed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gpu.correctness import same_bits, verdict
from gpu.timing import Timer
from treadle.models.cgspn.config import CONFIGS
from treadle.models.cgspn.oracle import encode
from treadle.runtime import Session, load

SIZES = ((1, 56, 56), (2, 28, 98), (1, 126, 14))
TIMED = (8, 392, 392)
Row = dict[str, Any]


def check(bundle: Path, device: str, graphs: bool = True) -> list[Row]:
    """One row per size and output. A fresh call, one into given memory and a captured one must agree bit for bit.

    Without `graphs`, one size and no capture: for runs under a memory checker, where torch's graphs do not work.
    """
    with load(bundle, device) as session:
        kind = session.entries["main"].inputs[0].dtype
        weights = _weights(session)
        storage = None if kind == "float32" else getattr(torch, kind)
        rows = []
        for n, h, w in SIZES if graphs else SIZES[:1]:
            image = _image(n, h, w, kind)
            truth, yardstick = (
                encode(weights, image, CONFIGS["tiny"], state, storage if state is torch.float32 else None)
                for state in (torch.float64, torch.float32)
            )
            fresh = session.run(image=image.to(device))
            again = list(_again(session, image.to(device), fresh, graphs))
            for name, y in fresh.items():
                same = all(same_bits(y, other[name]) for other in again)
                judged = verdict(y.cpu(), truth[name], yardstick[name], kind, same)
                rows.append({**_head(session, kind, (n, h, w)), "result": name, **judged})
    return rows


def _again(
    session: Session, image: torch.Tensor, fresh: dict[str, torch.Tensor], graphs: bool
) -> Iterator[dict[str, torch.Tensor]]:
    """The same outputs by the other ways to call."""
    out = {name: torch.full_like(y, torch.nan) for name, y in fresh.items()}
    yield session.run(image=image, out=out)
    if image.is_cuda and graphs:
        captured = {name: torch.full_like(y, torch.nan) for name, y in fresh.items()}
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            session.run(image=image, out=captured)
        graph.replay()
        torch.cuda.synchronize()
        yield captured


def time(bundle: Path, timer: Timer, quick: bool) -> Row:
    """Seconds per image batch: called through Session.run, and, where the device has graphs, replayed as one.

    On one set of arrays: between two of a layer's turns go all other layers, as in use.
    """
    device = timer.device
    with load(bundle, device) as session:
        kind = session.entries["main"].inputs[0].dtype
        size = SIZES[0] if quick else TIMED
        image = _image(*size, kind).to(device)
        out = session.run(image=image)
        call = partial(session.run, image=image, out=out)
        replayed = timer.time([call])
        called = timer.wall(call)
        return {
            **_head(session, kind, size), "sets": 1, "seconds": replayed, "host_seconds": called,
            "arena_bytes": session.arena_bytes,
        }  # fmt: skip


def _head(session: Session, kind: str, size: tuple[int, int, int]) -> Row:
    return {"program": session.manifest.name, "dtype": kind, "sizes": dict(zip("NHW", size, strict=True))}


def _weights(session: Session) -> dict[str, torch.Tensor]:
    """The bundle's weights; numpy has no bfloat16 of its own, so bits travel."""
    return {
        s.name: torch.from_numpy(session.bundle.weights[s.name].view("uint8").copy())
        .view(getattr(torch, s.dtype))
        .reshape([int(n) for n in s.shape])
        for s in session.manifest.weights
    }


def _image(n: int, h: int, w: int, kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(h * w)
    return torch.randn(n, 3, h, w, generator=generator).to(getattr(torch, kind))
