"""A bundle: the directory that `treadle compile` writes and every runtime loads.

The rule of loading, for every runtime.  Each step trusts only what the steps above it
have checked, and each refusal is a typed error:

1. it is a folder of regular files and nothing else;
2. SHA256SUMS ends with its own digest and lists every file; all sizes, then all digests match;
3. manifest.json is of a known schema, with exactly the known keys, and consistent in itself;
4. a library is for the device asked for, and the CPU has the features it needs;
5. the files that the manifest relies on are there;
6. weights.safetensors holds exactly the manifest's weights, in its dtypes and shapes;
7. plan.json is of a known schema and reads and writes the manifest's tensors, in its dtypes and sizes;
8. the library loads, its ABI version is the runtime's, and it was made for this manifest.json and plan.json;
9. it exports what the manifest promises, and takes as many tensors.

`Bundle.open` does 1 to 5, a Session 4 and 6 to 9; nothing is dlopened before 8.

SHA256SUMS is the anchor.  Whoever writes it anew over other bytes has made another bundle, and only
contradictions between its files are noticed then.  The library holds the digests of the manifest and
the plan, whose sizes and order it was compiled for: beside others it would read and write elsewhere.
It holds none of the weights: one library serves any of the manifest's shapes, so other weights are
another good bundle, as other machine code is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from treadle.errors import ArchError, BundleError
from treadle.runtime import manifest as manifest_
from treadle.runtime import strict_json
from treadle.runtime import weights as weights_
from treadle.runtime.cpu import cpu_features
from treadle.runtime.manifest import Library, Manifest
from treadle.runtime.strict_json import Node
from treadle.runtime.sums import Sum, verify_sums, write_sums

__all__ = ["Bundle", "write_sums"]

PLAN = "plan.json"


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle; holding one means its files matched their digests when it was opened."""

    path: Path
    manifest: Manifest
    sums: dict[str, Sum]

    @classmethod
    def open(cls, path: str | os.PathLike[str], target: str | None = None) -> Bundle:
        """Verify the bundle at `path`; with a `target`, also that this machine can run it."""
        root = Path(path).absolute()
        try:
            _check_folder(root)
            sums = verify_sums(root)
            if manifest_.FILE not in sums:
                raise BundleError(f"bundle {root}: {manifest_.FILE} is missing", hint=_rebuild(root))
            manifest = Manifest.from_json((root / manifest_.FILE).read_bytes())
        except OSError as wrong:
            raise BundleError(
                f"bundle {root}: cannot be read",
                given=f"{wrong.strerror} at {wrong.filename}",
                expected="readable files",
                hint="Check the path and its permissions.",
            ) from None
        bundle = cls(root, manifest, sums)
        bundle._check_files()
        if target is not None:
            bundle.library(target)
        return bundle

    def library(self, target: str) -> Library:
        """The library to load for `target`.

        A kind alone, such as ``cpu``, stands for any variant of it (``cpu:x86-64-v4``); the
        first that this machine can run is taken.  ArchError when there is none.
        """
        held = {library.target: library for library in self.manifest.libraries}
        fitting = [held[t] for t in held if t == target or t.startswith(f"{target}:")]
        if not fitting:
            raise ArchError(
                f"bundle {self.path}: has no library for target {target}",
                given=target,
                expected=f"one of {', '.join(held)}" if held else "none: it holds no library",
                hint=self._recompile(target),
            )
        for library in fitting:
            if cpu_features().issuperset(library.cpu_features):
                return library
        missing = [f for f in fitting[0].cpu_features if f not in cpu_features()]
        raise ArchError(
            f"bundle {self.path}: {fitting[0].file} needs CPU features this machine lacks",
            given=f"a CPU without {', '.join(missing)}",
            expected=", ".join(fitting[0].cpu_features),
            hint=self._recompile("cpu:native") + " on this machine",
        )

    @cached_property
    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """The weights in manifest order: read-only views of one memory map, shared by sessions."""
        return weights_.load_weights(self.path / weights_.FILE, self.manifest.weights)

    def plan(self) -> Node:
        """plan.json, for the interpreter and `treadle inspect`."""
        if PLAN not in self.sums:
            raise BundleError(f"bundle {self.path}: {PLAN} is missing", hint=_rebuild(self.path))
        return strict_json.parse((self.path / PLAN).read_bytes(), PLAN)

    def _check_files(self) -> None:
        """Every file the manifest relies on is one that the sums cover."""
        needed = [library.file for library in self.manifest.libraries]
        if self.manifest.weights:
            needed.append(weights_.FILE)
        for file in needed:
            if file not in self.sums:
                raise BundleError(
                    f"bundle {self.path}: the manifest names {file}, which is missing",
                    hint=_rebuild(self.path),
                )

    def _recompile(self, target: str) -> str:
        return f"Run `treadle compile {self.manifest.name} --target {target} -o {self.path}`"


def _check_folder(root: Path) -> None:
    if root.is_dir():
        return
    if root.exists():
        raise BundleError(
            f"bundle {root}: not a bundle",
            given="a file",
            expected="a directory",
            hint="If it is a zip of a bundle, unpack it first.",
        )
    raise BundleError(
        f"bundle {root}: does not exist",
        hint=f"Check the path, or make it with `treadle compile ... -o {root}`.",
    )


def _rebuild(root: Path) -> str:
    return f"Rebuild it with `treadle compile ... -o {root}`."
