"""The cache of compiled libraries: content-addressed, one folder an entry, published by one atomic rename.

A key is the digest of everything the entry is made from, so an entry is never wrong, only present or absent. Writers build
in a private folder and rename it into place: readers see nothing or all of it, killed writers leave only a private folder,
and the loser of a race uses the winner's entry. An advisory lock, released by the kernel when its holder dies, keeps two
processes from compiling the same thing. Digests are checked on every read; a damaged entry is set aside and built again. A
cache that cannot be written is read where possible and otherwise bypassed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treadle.errors import BundleError
from treadle.runtime.sums import verify_sums, write_sums
from treadle.settings import settings

Build = Callable[[Path], None]

#: Seconds after which a private folder that nobody published belongs to nobody.
_ABANDONED = 3600


def digest(parts: Mapping[str, Any]) -> str:
    """The key of whatever is determined by these parts (JSON values)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Cache:
    root: Path

    @staticmethod
    def default() -> Cache:
        return Cache(settings.cache_dir)

    def entry(self, key: str) -> Path | None:
        """The verified folder of an entry, or None."""
        folder = self.root / key
        if not folder.is_dir():
            return None
        try:
            verify_sums(folder)
        except BundleError:
            self._discard(folder)
            return None
        return folder

    def get_or_build(self, key: str, build: Build, keep: ExitStack) -> tuple[Path, bool]:
        """(folder, whether it was there). A folder that cannot be published lives as long as `keep`."""
        if found := self.entry(key):
            return found, True
        from filelock import FileLock  # of the compiler extra: a base install may still list and prune

        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / f"{key}.lock")
            lock.acquire()
        except OSError:  # read-only or full: compile for this process alone
            return self._fill(Path(keep.enter_context(tempfile.TemporaryDirectory(prefix="treadle-"))), build), False
        try:
            if found := self.entry(key):  # built while we waited
                return found, True
            private = self._fill(Path(tempfile.mkdtemp(prefix=f"{key[:8]}-", suffix=".tmp", dir=self.root)), build)
            try:
                private.rename(self.root / key)
            except OSError:
                if not (found := self.entry(key)):
                    raise
                shutil.rmtree(private)
            return self.root / key, False
        finally:
            lock.release()

    def entries(self) -> Iterator[tuple[str, int, bool]]:
        """(key, bytes, whether its digests match) of each entry."""
        for folder in sorted(self._folders()):
            size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
            yield folder.name, size, self._sound(folder)

    def prune(self, everything: bool = False) -> list[str]:
        """Remove damaged entries, or all of them; returns what was removed."""
        gone = [f for f in self._folders() if everything or not self._sound(f)]
        for folder in gone:
            self._discard(folder)
        for left in self.root.glob("*.tmp"):  # of writers that were killed; a living one is younger
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
        return [f.name for f in gone]

    def _folders(self) -> list[Path]:
        return [f for f in self.root.iterdir() if f.is_dir() and not f.name.endswith(".tmp")] if self.root.is_dir() else []

    def _sound(self, folder: Path) -> bool:
        try:
            verify_sums(folder)
        except BundleError:
            return False
        return True

    def _fill(self, folder: Path, build: Build) -> Path:
        try:
            build(folder)
            write_sums(folder)
            folder.chmod(0o755)  # mkdtemp keeps others out; an entry, and the bundle copied from it, is for everybody
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    def _discard(self, folder: Path) -> None:
        """Rename first, so that no reader finds a half-removed entry."""
        try:
            aside = Path(tempfile.mkdtemp(suffix=".tmp", dir=self.root))
            os.replace(folder, aside / "gone")
            shutil.rmtree(aside)
        except OSError:
            return  # a read-only cache keeps its damaged entry; it is never used
