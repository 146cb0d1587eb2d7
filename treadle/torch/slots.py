"""Which slot of a state each row of a batch has: what the operators that update states in place ask of the table."""

from __future__ import annotations

import torch
from torch import Tensor

from treadle.errors import ArgumentError, DeviceError
from treadle.torch import checks

#: What the kernels take for padding.
PAD = -1


def table(op: str, name: str, given: Tensor | None, rows: int, device: torch.device, pad: int) -> Tensor | None:
    """The table as kernels read it: int32, padding -1."""
    if given is None:
        return None
    checks.shape(op, name, given, (rows,), "batch")
    integers(op, name, given, device)
    return (given if pad == PAD else torch.where(given == pad, PAD, given)).int()


def integers(op: str, name: str, given: Tensor, device: torch.device) -> None:
    if given.dtype not in (torch.int32, torch.int64):
        raise ArgumentError(f"{op}: dtype of {name}", given=str(given.dtype), expected="torch.int32")
    if given.device != device:
        raise DeviceError(f"{op}: device of {name}", given=str(given.device), expected=str(device))


def updated(op: str, name: str, state: Tensor) -> None:
    """What is written where it lies can be neither copied nor part of a graph of gradients."""
    if state.requires_grad:
        raise ArgumentError(
            f"{op}: {name} is updated in place", given="requires_grad=True", expected="a tensor without gradient"
        )


def straight(*given: Tensor | None) -> bool:
    """Whether a call may go to the kernel past torch's dispatcher, which takes longer than a small step: nobody traces it,
    and no gradient is asked, of which the dispatcher says that there is none."""
    tensors = [t for t in given if t is not None]
    if torch.compiler.is_compiling() or not all(type(t) in (Tensor, torch.nn.Parameter) for t in tensors):
        return False
    return not any(t.requires_grad for t in tensors)


def validate(op: str, name: str, slots: Tensor | None, count: int) -> None:
    """The values of a table; reads them, and so waits for the device."""
    if slots is None:
        return
    wrong = slots[(slots != PAD) & ((slots < 0) | (slots >= count))]
    if wrong.numel():
        raise ArgumentError(f"{op}: {name}", given=int(wrong[0]), expected=f"0 to {count - 1}, or the slot of padding")
    found, times = slots[slots != PAD].unique(return_counts=True)
    if twice := found[times > 1].tolist():
        raise ArgumentError(f"{op}: {name}", given=f"slot {twice[0]} for two rows", expected="a slot of its own for each row")
