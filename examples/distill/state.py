"""Checkpoints that are whole or not there: a digest, then what torch saves, put in place by one rename."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from treadle.errors import ArgumentError, TreadleError


class CheckpointError(TreadleError):
    """A checkpoint that is damaged, or of another recipe."""


def write(path: Path, content: bytes) -> None:
    """The old file or the new one, whenever the process or the machine stops."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def save(path: Path, recipe: str, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save({"recipe": recipe, **state}, buffer)
    content = buffer.getvalue()
    write(path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def load(path: Path, recipe: str) -> dict[str, Any] | None:
    """What was saved, None where nothing was."""
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    hint = f"Delete {path} to begin this stage again"
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise CheckpointError(
            f"{path} is damaged", given=f"{len(content)} bytes", expected="those it was written with", hint=hint
        )
    try:
        state = torch.load(io.BytesIO(content), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as wrong:
        raise CheckpointError(f"{path} cannot be read by this torch", given=str(wrong).partition("\n")[0], hint=hint) from None
    if state["recipe"] != recipe:
        raise CheckpointError(
            f"{path} is of another recipe",
            given=state["recipe"],
            expected=recipe,
            hint="Give another --out, or delete the folder",
        )
    return state


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """A folder that can be written to, for one run at a time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as wrong:
        raise ArgumentError(
            "--out cannot be written to", given=f"{folder}: {wrong.strerror}", expected="a folder to write to"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArgumentError(
                "--out is in use",
                given=str(folder),
                expected="one run at a time",
                hint="Wait for the other, or give another --out",
            ) from None
        yield
