"""The C-GSPN encoder as a bundle: against its oracle, and, on CUDA, captured into a graph and timed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gpu.timing import Timer
from treadle.dtypes import dtype as find_dtype
from treadle.ir.oracles.check import compare
from treadle.models.cgspn.config import CONFIGS
from treadle.models.cgspn.oracle import encode
from treadle.runtime import Session, load

SIZES = ((1, 56, 56), (2, 28, 98), (1, 126, 14))
TIMED = (8, 392, 392)
Row = dict[str, Any]


def check(bundle: Path, device: str) -> list[Row]:
    """One row per size and output, from `features` on; a fresh call and one into given memory must agree bit for bit."""
    with load(bundle, device) as session:
        kind = session.entries["main"].inputs[0].dtype
        weights = _weights(session)
        storage = None if kind == "float32" else getattr(torch, kind)
        rows = []
        for n, h, w in SIZES:
            image = _image(n, h, w, kind)
            truth, yardstick = (
                encode(weights, image, CONFIGS["tiny"], state, storage if state is torch.float32 else None)
                for state in (torch.float64, torch.float32)
            )
            fresh = session.run(image=image.to(device))
            again = session.run(image=image.to(device), out={name: torch.empty_like(y) for name, y in fresh.items()})
            for name, y in fresh.items():
                verdict = compare(y.cpu(), truth[name], yardstick[name], find_dtype(kind).eps or 0.0)
                same = torch.equal(y.view(torch.uint8), again[name].view(torch.uint8))
                why = "out of tolerance" if not verdict.ok else "" if same else "another run gave other bits: a race"
                rows.append(
                    {
                        "program": session.manifest.name, "dtype": kind, "sizes": {"N": n, "H": h, "W": w}, "result": name,
                        "error": verdict.error, "bound": verdict.bound, "ok": not why, "why": why,
                    }
                )  # fmt: skip
    return rows


def time(bundle: Path, timer: Timer, quick: bool) -> Row:
    """Seconds per image batch: called through Session.run, and, where the device has graphs, replayed as one."""
    device = timer.device
    with load(bundle, device) as session:
        kind = session.entries["main"].inputs[0].dtype
        n, h, w = SIZES[0] if quick else TIMED
        image = _image(n, h, w, kind).to(device)
        out = session.run(image=image)
        replayed = timer.time([_call(session, image, out)])
        called = timer.wall(_call(session, image, out))
        arena = session.arena_bytes
    return {
        "program": session.manifest.name, "dtype": kind, "sizes": {"N": n, "H": h, "W": w},
        "seconds": replayed, "host_seconds": called, "arena_bytes": arena,
    }  # fmt: skip


def _call(session: Session, image: torch.Tensor, out: dict[str, torch.Tensor]) -> Callable[[], object]:
    return lambda: session.run(image=image, out=out)


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
