"""The kernels of this process, each compiled or loaded once: by program, device, dtype and attributes."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from treadle.kernel import Kernel

_KERNELS: dict[tuple[Any, ...], Kernel] = {}
_COMPILING = threading.Lock()


def run(
    program: str, tensors: Sequence[torch.Tensor], shapes: Sequence[Sequence[int]], point: Mapping[str, Any] | None = None,
    **attrs: Any,
) -> list[torch.Tensor]:  # fmt: skip
    """The results of a Program on tensors that were checked; `shapes` are those of its results, `point` knobs of its schedule.

    Results without elements are made, not computed, and so are those of arguments without any: nothing adds up to zero.
    """
    if not all(t.numel() for t in tensors):
        return [tensors[0].new_zeros(shape) for shape in shapes]
    found = kernel(program, tensors[0].device, tensors[0].dtype, point, **attrs)(*(t.contiguous() for t in tensors))
    return list(found) if isinstance(found, tuple) else [found]


def kernel(
    program: str, device: torch.device, dtype: torch.dtype, point: Mapping[str, Any] | None = None, **attrs: Any
) -> Kernel:
    """The process's kernel of a Program."""
    choices = tuple(sorted(attrs.items())), tuple(sorted((point or {}).items()))
    key = program, _target(device), str(dtype).removeprefix("torch."), *choices
    with _COMPILING:
        if key not in _KERNELS:
            from treadle.api import compile  # the compiler is loaded when a kernel is first wanted

            made = compile(program, key[1], dtype=key[2], attrs=attrs, point=point)
            assert isinstance(made, Kernel)
            _KERNELS[key] = made
        return _KERNELS[key]


def _target(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda:sm_{major}{minor}{'a' if major >= 9 else ''}"
