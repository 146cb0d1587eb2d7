"""Damages a bundle in many ways and counts what loading it does: python tests/runtime/damage.py --cases N [--seed S]

A case is right when loading or running raises a TreadleError, or when the damage was harmless: the results are bit for bit those
of the good bundle. Anything else is wrong: a signal, another exception, other results. The cases run in
children, so that one that dies is a count. One JSON value comes out.

Half of the cases leave SHA256SUMS as it was; half write it anew, so that what stands behind it is reached too. It is the
anchor of trust: under new sums these are left out, for they are other good bundles and not damaged ones
  - the library's own bytes (it is only replaced as a whole, by something that is no library of ours),
  - the weights' own bytes, behind the header, and what exchanges two of them that are alike.
The interpreter of plan.json executes what that file says. It must not die or raise anything untyped either; its results are
not judged where the plan was changed, for a well-formed other plan is another program.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from treadle import Session
from treadle.errors import TreadleError
from treadle.runtime import Bundle
from treadle.runtime.interpreter import run_plan
from treadle.runtime.sums import write_sums

#: Address space of a child: what asks for absurd memory is refused here, on any machine.
MEMORY = 8 << 30
ABSURD = [-1, 0, 1, *(2**k - d for k in (31, 32, 62, 63, 64) for d in (0, 1)), 10**40, 0.5, None, [], {}]
ABSURD += ["", "0", "9" * 30, "N" * 3000]


# --- damages of bytes -------------------------------------------------------------------------------------------------------


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def splice(data: bytes, rng: random.Random) -> bytes:
    """A stretch of the file over another place in it."""
    size = rng.randrange(1, min(len(data), 4096) + 1)
    start, at = (rng.randrange(len(data) - size + 1) for _ in range(2))
    return data[:at] + data[start : start + size] + data[at + size :]


def extend(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice((b"\0", b"\n", b"{}", rng.randbytes(rng.randrange(1, 4096))))


BYTES: list[Callable[[bytes, random.Random], bytes]] = [truncate, flip, splice, extend]


# --- damages of meaning -----------------------------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, child in inner for found in places(child, (*path, key))]


def distort(document: Any, rng: random.Random) -> str:
    """Makes one value absurd, or another's of the document, or removes it, or adds a key beside it."""
    path, other = rng.choice(places(document)), document
    for step in rng.choice(places(document)):
        other = other[step]
    for step in path[:-1]:
        document = document[step]
    how = rng.choice(("absurd", "borrowed", "missing", "unknown key"))
    if how == "missing":
        del document[path[-1]]
    elif how == "unknown key" and isinstance(document, dict):
        document["surprise"] = 1
    else:
        document[path[-1]] = copy.deepcopy(other) if how == "borrowed" else rng.choice(ABSURD)
    return f"{how} at {'.'.join(map(str, path))}"


def header(data: bytes) -> tuple[Any, bytes]:
    """The header of a safetensors file, and what follows it."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def distort_json(root: Path, rng: random.Random) -> str:
    file = root / rng.choice(("manifest.json", "plan.json"))
    document = json.loads(file.read_text())
    how = distort(document, rng)
    file.write_text(json.dumps(document))
    return f"{file.name}: {how}"


def distort_header(root: Path, rng: random.Random) -> str:
    file = root / "weights.safetensors"
    document, body = header(file.read_bytes())
    if rng.random() < 0.3:
        size = rng.choice((0, 1, 7, len(body), 2**31, 2**32, 2**40, 2**63 - 1, 2**64 - 1))
        file.write_bytes(size.to_bytes(8, "little") + file.read_bytes()[8:])
        return f"{file.name}: a header of {size} bytes"
    how = distort(document, rng)
    text = json.dumps(document).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return f"{file.name}: {how}"


def wrong_versions(root: Path, rng: random.Random) -> str:
    """A schema, a target or a CPU that is not this one."""
    file, path, value = rng.choice(
        (
            ("manifest.json", ("schema",), rng.choice((0, 2, 99, 2**40))),
            ("plan.json", ("schema",), rng.choice((0, 2, 99, 2**40))),
            ("manifest.json", ("libraries", 0, "target"), rng.choice(("cuda:sm_90a", "cpu2", "", "ptx"))),
            ("manifest.json", ("libraries", 0, "cpu_features"), ["avx2", f"feature{rng.randrange(99)}"]),
        )
    )
    document = node = json.loads((root / file).read_text())
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    (root / file).write_text(json.dumps(document))
    return f"{file}: {'.'.join(map(str, path))} is {value}"


def wrong_library(root: Path, rng: random.Random) -> str:
    """A file in the library's place that is no library, or not one of ours."""
    file = root / "lib" / "cpu.so"
    good = file.read_bytes()
    kind = rng.choice(("text", "nothing", "another machine", "32 bits", "another ABI", "no ABI"))
    if kind == "another machine":
        made = good[:18] + rng.choice((b"\xb7\0", b"\x28\0", b"\xf3\0")) + good[20:]  # e_machine: aarch64, arm, riscv
    elif kind == "32 bits":
        made = good[:4] + b"\1" + good[5:]
    elif kind in ("another ABI", "no ABI"):
        made = (root.parent / f"{kind}.so").read_bytes()
    else:
        made = b"" if kind == "nothing" else rng.randbytes(rng.randrange(1, 9999))
    # A new inode, as every way of copying a bundle gives: the old one may be mapped into this process.
    file.unlink()
    file.write_bytes(made)
    return f"lib/cpu.so: {kind}"


# --- cases ------------------------------------------------------------------------------------------------------------------


def damage(root: Path, seed: int, case: int) -> str:
    """Damages the bundle there; returns what was done."""
    rng = random.Random(f"{seed}/{case}")
    anew = case % 2 == 1
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    kind = rng.choice(("bytes", "bytes", "bytes", "delete", "swap", "json", "json", "header", "versions", "library"))
    if kind == "bytes":
        change = rng.choice(BYTES)
        name = rng.choice([f for f in files if f not in ("lib/cpu.so", "SHA256SUMS")] if anew else files)
        data = (root / name).read_bytes()
        # Under new sums the weights' header is damaged, and never their bytes alone.
        kept = 8 + int.from_bytes(data[:8], "little") if anew and name == "weights.safetensors" else len(data)
        made = change(data[:kept], rng) + data[kept:]
        (root / name).unlink()
        (root / name).write_bytes(made)
        done = f"{name}: {change.__name__}"
    elif kind == "delete":
        name = rng.choice(files)
        (root / name).unlink()
        done = f"{name}: deleted"
    elif kind == "swap":
        one, two = rng.sample(files, 2)
        (root / one).rename(root / "aside")
        (root / two).rename(root / one)
        (root / "aside").rename(root / two)
        done = f"{one} and {two}: swapped"
    else:
        made_by = {"json": distort_json, "header": distort_header, "versions": wrong_versions, "library": wrong_library}
        done = made_by[kind](root, rng)
    if anew:
        write_sums(root)
    return f"{done}, {'new' if anew else 'old'} sums"


def inputs() -> dict[str, Any]:
    return {"x": np.random.default_rng(1).standard_normal((2, 5, 32)).astype(np.float32)}


def outcome(root: Path, good: bytes) -> str:
    """What a user of the bundle there meets: refused, right, or what went wrong."""
    try:
        with Session(Bundle.open(root)) as session:
            found = "right" if session.run(**inputs())["y"].tobytes() == good else "other results"
    except TreadleError:
        found = "refused"
    except Exception as wrong:
        return f"untyped {type(wrong).__name__}: {wrong}"
    try:
        run_plan(Bundle.open(root), **inputs())
    except TreadleError:
        pass
    except Exception as wrong:
        return f"untyped {type(wrong).__name__} in the interpreter: {wrong}"
    return found


def child(good: Path, seed: int, first: int, last: int) -> None:
    """One line of JSON before and after each case, so that the parent knows which one was fatal."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Session(Bundle.open(good)) as session:
        expected = session.run(**inputs())["y"].tobytes()
    for case in range(first, last):
        with tempfile.TemporaryDirectory(dir=good.parent) as folder:
            root = shutil.copytree(good, Path(folder) / "b.treadle")
            for library in good.parent.glob("*.so"):
                os.link(library, Path(folder) / library.name)
            done = damage(root, seed, case)
            print(json.dumps([case, done, None]), flush=True)
            print(json.dumps([case, done, outcome(root, expected)]), flush=True)


def survey(good: Path, seed: int, cases: int, batch: int = 250) -> dict[str, Any]:
    """All cases in children; one that dies is counted and the rest goes on in the next child."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    case = 0
    while case < cases:
        command = [sys.executable, __file__, "--seed", seed, "--child", good, case, min(case + batch, cases)]
        ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
        lines = [json.loads(line) for line in ran.stdout.splitlines()]
        if not lines:
            raise RuntimeError(ran.stderr)
        for number, done, found in lines:
            case = number + 1
            if found is not None:
                counts[found if found in ("right", "refused") else "wrong"] += 1
                wrong += [] if found in ("right", "refused") else [f"case {number}, {done}: {found}"]
        if lines[-1][2] is None:
            died = signal.Signals(-ran.returncode).name if ran.returncode < 0 else ran.stderr[-300:]
            counts["died"] += 1
            wrong.append(f"case {lines[-1][0]}, {lines[-1][1]}: died of {died}")
    return {"cases": cases, "died": 0, "wrong": 0, **counts, "found": wrong}


def build(folder: Path) -> Path:
    """A small bundle with weights, views and an arena; beside it, two libraries that are not ours."""
    import treadle
    from treadle.ir.graph import Graph, Init
    from treadle.settings import settings

    graph = Graph("small")
    n, p = graph.dim("N", 0, 64), graph.dim("P", 1, 4096)
    weight, bias = (graph.weight(f"norm.{w}", (32,), "float32", Init("normal", 0.1)) for w in ("weight", "bias"))
    rows = graph.view(graph.input("x", (n, p, 32), "float32"), (n * p, 32))
    normed = graph.call("norm", "norm.layer_norm", rows, weight, bias)
    planes = graph.call("planes", "image.to_planes", graph.view(normed, (n, p, 32)))
    graph.output("y", graph.call("pool", "image.mean_pool", planes))
    good = treadle.compile(graph, out=folder / "good.treadle").path
    for name, symbol in (("another ABI", "treadle_abi_version"), ("no ABI", "something_else")):
        command = [settings.cxx, "-shared", "-fPIC", "-xc", "-", "-o", str(folder / f"{name}.so")]
        subprocess.run(command, input=f"int {symbol}(void) {{ return 99; }}", text=True, check=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=3, metavar=("GOOD", "FIRST", "LAST"), help="run cases here; for this script's own use")
    given = parser.parse_args()
    if given.child:
        child(Path(given.child[0]), given.seed, int(given.child[1]), int(given.child[2]))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = survey(build(Path(folder)), given.seed, given.cases)
    print(json.dumps(found, indent=1))
    return 1 if found["found"] else 0


if __name__ == "__main__":
    sys.exit(main())
