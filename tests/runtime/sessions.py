"""Sessions under load, counted: python tests/runtime/sessions.py BUNDLE threads THREADS SESSIONS RUNS
                              python tests/runtime/sessions.py BUNDLE loads LOADS

`threads`: each thread makes RUNS calls on every Session, whose results must be bit for bit those of a serial run.
`loads`: load, run, unload; how much memory the process holds after each fifth of them.
Both take a bundle with one float32 input x, of any rank, whose first axis is free. One JSON value comes out.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from treadle.runtime import Session, load

SIZES = range(1, 9)


def inputs(session: Session) -> list[np.ndarray[Any, Any]]:
    """One for each of a few first sizes, the other free axes being 5."""
    (spec,) = next(iter(session.entries.values())).inputs
    rest = tuple(int(size) if size.isdigit() else 5 for size in spec.shape[1:])
    return [np.random.default_rng(n).standard_normal((n, *rest)).astype(np.float32) for n in SIZES]


def bits(results: dict[str, np.ndarray[Any, Any]]) -> list[bytes]:
    return [array.tobytes() for array in results.values()]


def threads(bundle: Path, count: int, sessions: int, runs: int) -> dict[str, int]:
    first = load(bundle)
    arrays = inputs(first)
    serial = [bits(first.run(x=x)) for x in arrays]
    shared = [first] + [first.clone() for _ in range(sessions - 1)]
    wrong: list[tuple[int, int]] = []
    done: list[int] = []

    def work(seed: int) -> None:
        for i in range(runs * sessions):
            which = (seed + i) % len(arrays)
            if bits(shared[(seed + i // 3) % sessions].run(x=arrays[which])) != serial[which]:
                wrong.append((seed, i))
        done.append(seed)

    started = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return {"calls": count * sessions * runs, "wrong": len(wrong), "threads that failed": count - len(done)}


def resident() -> int:
    """Bytes of this process in memory that belong to it alone, so without the pages of mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def loads(bundle: Path, count: int) -> dict[str, Any]:
    with load(bundle) as session:
        arrays = inputs(session)
    after = []
    for _ in range(5):
        for i in range(count // 5):
            with load(bundle) as session:
                session.run(x=arrays[i % len(arrays)])
        del session
        gc.collect()
        after.append(resident())
    return {"loads": count, "bytes after each fifth": after, "growth": after[-1] - after[0]}


if __name__ == "__main__":
    measure = {"threads": threads, "loads": loads}[sys.argv[2]]
    print(json.dumps(measure(Path(sys.argv[1]), *map(int, sys.argv[3:]))))
