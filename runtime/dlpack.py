"""Correcting the DLPack record a framework hands over, before tvm_ffi takes it.

The record is made for one export and freed by the framework that made it, so
until it is consumed its fields are ours to amend.  Some of them have to be:

* the type code of an ml_dtypes array, which numpy can only export as raw bits;
* the strides of an array without elements, for which numpy and torch report
  values that kernels refuse.  A null pointer is DLPack's word for "compact";
* the device of memory that this process sees and a device owns.
"""

from __future__ import annotations

import ctypes
from typing import Any


class _Record(ctypes.Structure):
    """DLManagedTensorVersioned of dlpack.h, flattened."""

    _fields_ = [
        ("version_major", ctypes.c_uint32),
        ("version_minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


#: DLPack's device type.
CUDA = 2


def amended(capsule: Any, code: int | None = None, device: tuple[int, int] | None = None) -> Any:
    """The capsule of a contiguous array, with compact strides and, if given, another type code and device.

    Frameworks keep the strides in a block that the record's manager owns, never behind
    the pointer alone, so clearing it loses nothing.
    """
    record = _Record.from_address(_pointer(capsule, b"dltensor_versioned"))
    record.strides = None
    if code is not None:
        record.code = code
    if device is not None:
        record.device_type, record.device_id = device
    return capsule
