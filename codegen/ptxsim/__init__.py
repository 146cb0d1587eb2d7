"""The PTX machine: runs what nvcc made of a kernel on a CPU, and finds what silicon would let pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.device import Device as Device
    from treadle.codegen.ptxsim.device import DeviceArray as DeviceArray
    from treadle.codegen.ptxsim.parse import parse as load

__all__ = ["Device", "DeviceArray", "load"]


def __getattr__(name: str) -> Any:
    """On first use: most of the folder's files are of use without the rest."""
    if name in ("Device", "DeviceArray"):
        from treadle.codegen.ptxsim import device

        return getattr(device, name)
    if name == "load":
        from treadle.codegen.ptxsim.parse import parse

        return parse
    raise AttributeError(name)
