"""Reads back what is in a compiled library: which architectures, and machine code rather than source.

Without a GPU driver TVM quietly stores CUDA source where machine code belongs, and the mistake shows on the user's machine.
A library is therefore opened again after linking. The layout is not documented by NVIDIA; it has been the same since CUDA 4:
a header, then entries, each a header of its own (kind, sizes, architecture) in front of its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from treadle.errors import ToolchainError

_MAGIC = struct.pack("<I", 0xBA55ED50)
_HEADER = struct.Struct("<IHHQ")  # magic, version, header bytes, bytes that follow
_ENTRY = struct.Struct("<HHIQIIHHI8xQ")  # kind, version, header bytes, bytes, .., .., minor, major, architecture, .., flags
_ELF = 2
_SUFFIX = {1 << 20: "a", 1 << 21: "f"}
_EM_CUDA = 190


@dataclass(frozen=True)
class Image:
    """One entry of a fat binary."""

    arch: str
    is_code: bool
    data: bytes


def images(library: bytes) -> Iterator[Image]:
    """Every entry of every fat binary inside a file."""
    at = library.find(_MAGIC)
    while at >= 0:
        _, _, header, size = _HEADER.unpack_from(library, at)
        at, end = at + header, at + header + size
        while at + _ENTRY.size <= min(end, len(library)):
            kind, _, header, size, _, _, _, _, number, flags = _ENTRY.unpack_from(library, at)
            data = library[at + header : at + header + size]
            suffix = "".join(s for bit, s in _SUFFIX.items() if flags & bit)
            yield Image(f"sm_{number}{suffix}", kind == _ELF and _is_cubin(data), data)
            at += header + size
        at = library.find(_MAGIC, end)


def check(library: bytes, archs: Iterable[str], kernels: Iterable[str]) -> None:
    """Refuse a library that does not hold machine code of every kernel for exactly these architectures."""
    held = list(images(library))
    found = sorted({i.arch for i in held if i.is_code})
    if found != sorted(archs) or not all(i.is_code for i in held):
        raise ToolchainError(
            "the compiled library does not hold the machine code asked for",
            given=[f"{i.arch}{'' if i.is_code else ' (no machine code)'}" for i in held] or "no device code",
            expected=sorted(archs),
        )
    for image in held:
        if lost := [k for k in kernels if b".text." + k.encode() + b"\0" not in image.data]:
            raise ToolchainError(f"the compiled library lacks kernels for {image.arch}", given=lost, expected="all of them")


def _is_cubin(data: bytes) -> bool:
    return data[:4] == b"\x7fELF" and struct.unpack_from("<H", data, 18)[0] == _EM_CUDA
