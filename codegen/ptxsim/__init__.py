"""The PTX machine: runs what nvcc made of a kernel on a CPU, and finds what silicon would let pass."""

from treadle.codegen.ptxsim.device import Device, DeviceArray
from treadle.codegen.ptxsim.parse import parse as load

__all__ = ["Device", "DeviceArray", "load"]
