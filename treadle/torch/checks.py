"""What every operator asks of its arguments, before any kernel and in torch.compile's tracing alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from treadle.errors import ArgumentError, DeviceError, UnknownNameError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DIRECTIONS = ("t2b", "b2t", "l2r", "r2l")


def tensors(op: str, given: Mapping[str, torch.Tensor | None]) -> None:
    """All of one dtype that kernels exist for, on one device they run on."""
    (first, lead), *rest = ((name, t) for name, t in given.items() if t is not None)
    if lead.dtype not in DTYPES:
        raise ArgumentError(
            f"{op}: dtype of {first}", given=_name(lead.dtype), expected=f"one of {', '.join(map(_name, DTYPES))}",
            hint="The state is float32 whatever the dtype; cast the inputs.",
        )  # fmt: skip
    for name, t in rest:
        if t.dtype != lead.dtype:
            raise ArgumentError(f"{op}: dtype of {name}", given=_name(t.dtype), expected=f"{_name(lead.dtype)}, as of {first}")
        if t.device != lead.device:
            raise DeviceError(f"{op}: device of {name}", given=str(t.device), expected=f"{lead.device}, as of {first}")
    if lead.device.type not in ("cpu", "cuda", "meta"):
        raise DeviceError(f"{op}: device of {first}", given=str(lead.device), expected="cpu or cuda")


def rank(op: str, name: str, t: torch.Tensor, axes: str) -> tuple[int, ...]:
    """The sizes of a tensor whose axes are named, one letter each."""
    if t.dim() != len(axes):
        raise ArgumentError(f"{op}: axes of {name}", given=list(t.shape), expected=f"[{','.join(axes)}]")
    return tuple(t.shape)


def shape(op: str, name: str, t: torch.Tensor, expected: Sequence[int], axes: str) -> None:
    if t.dim() != len(expected) or any(a != b for a, b in zip(t.shape, expected, strict=True)):
        raise ArgumentError(f"{op}: shape of {name}", given=list(t.shape), expected=f"{list(expected)}, which is [{axes}]")


def groups(op: str, name: str, g: int, c: int) -> None:
    if g not in (1, c):
        raise ArgumentError(
            f"{op}: G, the groups of {name}", given=g, expected=f"1, shared by all channels, or C = {c}, one for each"
        )


def choices(op: str, direction: str | None, chunk: Any) -> None:
    if direction is not None and direction not in DIRECTIONS:
        raise UnknownNameError.unknown("direction", str(direction), DIRECTIONS, where=op)
    if isinstance(chunk, bool) or not isinstance(chunk, (int, torch.SymInt)) or chunk < 0:
        raise ArgumentError(f"{op}: chunk", given=repr(chunk), expected="a number of steps, or 0 for one walk")


def pieces(chunk: int, *steps: int) -> int:
    """The chunk a kernel is compiled for: one as long as the walk is no chunk, and no kernel of its own."""
    return 0 if chunk >= max(steps) else chunk


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
