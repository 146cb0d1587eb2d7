"""SHA256SUMS: one line ``sha256  size  relative/path`` per file, and a last line that is
the SHA-256 of all the bytes above it.

This stands before everything else because a truncated library kills the process
with SIGBUS inside dlopen: sizes and digests are compared before any byte is used.
It detects damage, not malice; whoever can write the bundle can write its sums.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from treadle.errors import BundleError

FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (0|[1-9][0-9]{0,18})  ([^\x00-\x1f\\]+)")
_HINT = "Copy the bundle again, or rebuild it with `treadle compile ... -o {}`."


@dataclass(frozen=True)
class Sum:
    """What SHA256SUMS says about one file."""

    digest: str
    size: int


def plain_path(path: str) -> bool:
    """A relative path as we write it: no empty part, no ``.`` and no ``..``."""
    return not {"", ".", ".."}.intersection(path.split("/"))


def write_sums(folder: str | os.PathLike[str]) -> None:
    """Write SHA256SUMS for everything now in `folder`; the last step of making a bundle."""
    root = Path(folder)
    lines = []
    for path in sorted(_files(root)):
        if path != FILE:
            lines.append(f"{_digest(root / path)}  {(root / path).stat().st_size}  {path}\n")
    body = "".join(lines).encode()
    (root / FILE).write_bytes(body + f"{hashlib.sha256(body).hexdigest()}\n".encode())


def verify_sums(root: Path) -> dict[str, Sum]:
    """Compare every file with SHA256SUMS; returns it by path, or raises BundleError."""
    sums = _read(root)
    present = _files(root) - {FILE}
    for path in sorted(sums.keys() - present):
        _refuse(root, f"{path} is missing", given="no such file", expected=f"{sums[path].size} B")
    for path in sorted(present - sums.keys()):
        _refuse(root, f"{path} is not listed in {FILE}", given="an extra file", expected="none")
    # All sizes before any digest: a truncated copy is then reported at once, however large.
    for path, listed in sums.items():
        size = (root / path).stat().st_size
        if size != listed.size:
            _refuse(root, f"{path} has the wrong size", given=f"{size} B",
                    expected=f"{listed.size} B")  # fmt: skip
    for path, listed in sums.items():
        digest = _digest(root / path)
        if digest != listed.digest:
            _refuse(root, f"{path} is damaged", given=f"sha256 {digest[:12]}...",
                    expected=f"{listed.digest[:12]}...")  # fmt: skip
    return sums


def _read(root: Path) -> dict[str, Sum]:
    file = root / FILE
    if not file.is_file():
        _refuse(root, f"{FILE} is missing, so this is no bundle or an incomplete one")
    return parse_sums(file.read_bytes(), root)


def parse_sums(data: bytes, root: Path) -> dict[str, Sum]:
    """What SHA256SUMS of this content says, by path."""
    cut = data.rstrip(b"\n").rfind(b"\n") + 1
    body, last = data[:cut], data[cut:]
    if last != f"{hashlib.sha256(body).hexdigest()}\n".encode():
        _refuse(root, f"{FILE} is damaged", given="a last line that does not match",
                expected="the SHA-256 of the lines above it")  # fmt: skip
    sums: dict[str, Sum] = {}
    for number, line in enumerate(body.decode("utf-8", "replace").split("\n")[:-1], start=1):
        match = _LINE.fullmatch(line)
        if not match:
            _refuse(root, f"{FILE} line {number} is malformed", given=repr(line[:80]),
                    expected="sha256  size  relative/path")  # fmt: skip
        digest, size, path = match.groups()
        if not plain_path(path):
            _refuse(root, f"{FILE} line {number} leaves the bundle", given=repr(path),
                    expected="a plain relative path")  # fmt: skip
        if path in sums or path == FILE:
            _refuse(root, f"{FILE} line {number} lists {path} again")
        sums[path] = Sum(digest, int(size))
    return sums


def _files(root: Path) -> set[str]:
    """Relative paths of all regular files; anything else (links, sockets) is refused."""
    found: set[str] = set()

    def unreadable(wrong: OSError) -> NoReturn:
        raise wrong

    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        for name in names + subfolders:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                _refuse(root, f"{relative} is a link or special file", expected="regular files")
            if path.is_file():
                found.add(relative)
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse(root: Path, why: str, given: str | None = None, expected: str | None = None) -> NoReturn:
    raise BundleError(f"bundle {root}: {why}", given=given, expected=expected, hint=_HINT.format(root))
