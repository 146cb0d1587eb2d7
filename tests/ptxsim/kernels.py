"""Our own CUDA kernels for the PTX machine, kernels/*.cu, each right and with planted bugs; their PTX is committed beside them.

So tests need no nvcc. After a change: `python tests/ptxsim/kernels.py` compiles all anew. Each file of PTX names the compiler
and the digest of the source that it was made of. Of a build with a bug, kernels that the bug does not change are left out.

A bug is a number: `#if BUG == 3` plants it, and a comment `// bug 3 RaceHazard PendingHazard` ends each line where it may be
caught, with the hazards that would be right there; or with `Numbers`, where only the result shows it.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from treadle.codegen import nvcc, ptxsim

FOLDER = Path(__file__).with_name("kernels")
NAMES = tuple(sorted(p.stem for p in FOLDER.glob("*.cu")))
_MARK = re.compile(r"\bbug (\d+)((?: [A-Z]\w+)+)")
_ENTRY = re.compile(r"^\.visible \.entry (\w+)\(.*?^}\n(?=\.|\t\.(?:file|section))", re.MULTILINE | re.DOTALL)


def file(name: str, bug: int = 0) -> Path:
    """The PTX of a source with one of its bugs; 0: with none."""
    return FOLDER / "ptx" / (f"{name}.{bug}.ptx" if bug else f"{name}.ptx")


@cache
def module(name: str, bug: int = 0) -> Any:
    """The same, parsed."""
    return ptxsim.load(file(name, bug).read_text(), file(name, bug).name)


@cache
def marks(name: str) -> dict[int, list[tuple[str, str]]]:
    """Of each bug: (hazard, "FILE:LINE") wherever it may be caught."""
    found: dict[int, list[tuple[str, str]]] = {}
    for number, line in enumerate((FOLDER / f"{name}.cu").read_text().splitlines(), 1):
        for bug, kinds in _MARK.findall(line.partition("//")[2]):
            found.setdefault(int(bug), []).extend((k, f"{name}.cu:{number}") for k in kinds.split())
    return found


def builds(name: str) -> list[int]:
    """The right one and the bugs."""
    return [0, *sorted(marks(name))]


def head(name: str, version: str) -> str:
    """The first line of the PTX of a source."""
    sources = b"".join((FOLDER / f).read_bytes() for f in ("ptx.h", f"{name}.cu"))
    return f"// nvcc {version} of {name}.cu and ptx.h, sha256 {hashlib.sha256(sources).hexdigest()}\n"


@cache
def compiled(name: str, bug: int = 0) -> str:
    """What nvcc makes of a source now, as it is committed: without comments and without paths of this machine."""
    compiler = nvcc.find()
    with tempfile.NamedTemporaryFile(suffix=".ptx") as out:
        flags = ["-ptx", "-lineinfo", "-std=c++17", "-gencode=arch=compute_90a,code=compute_90a", f"-DBUG={bug}"]
        command = [compiler.path, *flags, f"{name}.cu", "-o", out.name]
        subprocess.run(command, cwd=FOLDER, check=True, env=nvcc.environment())
        text = Path(out.name).read_text()
    text = re.sub(r"//[^\"\n]*$", "", text, flags=re.MULTILINE)
    text = re.sub(r'^(\s*\.file\s+\d+) ".*?([^/"]+)"', r'\1 "\2"', text, flags=re.MULTILINE)
    text = re.sub(r"\s*\n(\s*\n)*", "\n", text).lstrip()
    if bug:
        right = {m[0] for m in _ENTRY.finditer(compiled(name))}
        text = _ENTRY.sub(lambda m: "" if m[0] in right else m[0], text)
    return head(name, compiler.version) + text


def code(text: str) -> str:
    """Without the first line, and without debug sections: some of their names hold a digest of where the file lay."""
    return text.partition("\n")[2].partition("\t.section")[0]


def recompile(names: Sequence[str] = NAMES) -> None:
    """All PTX anew."""
    for name in names:
        for old in FOLDER.glob(f"ptx/{name}.*"):
            old.unlink()
        for bug in builds(name):
            file(name, bug).write_text(compiled(name, bug))


if __name__ == "__main__":
    import sys

    (FOLDER / "ptx").mkdir(exist_ok=True)
    recompile(tuple(sys.argv[1:]) or NAMES)
