"""A cache under fire: python tests/codegen/cache_fire.py PROCESSES KERNELS [SEED]

PROCESSES compile the same KERNELS into one cold cache, each in an order of its own, and a third of them is killed on the way.
Then the cache must hold exactly KERNELS entries, each byte for byte what a process alone makes; and a process that may not
write there must get those from it, and compile another kernel all the same. One JSON value comes out.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from treadle.api import compile
from treadle.codegen.cache import Cache


def use(cache: Path, sizes: list[int]) -> None:
    """Compile a cheap kernel for each size and check what it computes: means of equal numbers, which are exact."""
    os.environ["TREADLE_CACHE_DIR"] = str(cache)
    for size in sizes:
        numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
        pool = compile("image.mean_pool", dims={"P": size})
        assert np.array_equal(pool(np.repeat(numbers[..., None], size, axis=2)), numbers)


def start(work: Callable[[], None]) -> int:
    """A process that does it. Forked, so that TVM is imported once: nothing has been compiled here, and no thread runs."""
    assert threading.active_count() == 1
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def sums(cache: Path) -> dict[str, bytes]:
    return {key: (cache / key / "SHA256SUMS").read_bytes() for key, _, sound in Cache(cache).entries() if sound}


def bow_to_permissions() -> None:
    """Give up root's power over permission bits. Another user would do, but could not read an installation in a private folder."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version of capabilities, this process
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: of capabilities 0 to 31, then of the others
    if ctypes.CDLL(None, use_errno=True).capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def read_only(cache: Path, sizes: list[int]) -> None:
    """As somebody who may read the cache and not write it."""
    bow_to_permissions()
    assert not os.access(cache, os.W_OK)
    use(cache, [*sizes, max(sizes) + 1])


def fire(folder: Path, processes: int, kernels: int, seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    sizes = [16 + i for i in range(kernels)]
    cache, alone = folder / "cache", folder / "alone"
    orders = [rng.sample(sizes, kernels) for _ in range(processes)]
    running = [start(partial(use, cache, order)) for order in orders]
    victims = running[: processes // 3]
    for victim in victims:
        time.sleep(rng.uniform(0.05, 0.5))
        os.kill(victim, signal.SIGKILL)  # not waited for yet, so the number is still its own
    codes = [ended(child) for child in running]
    left = len(list(cache.glob("*.tmp")))
    entries = list(Cache(cache).entries())
    found = sums(cache)
    assert ended(start(lambda: use(alone, sizes))) == 0
    cache.chmod(0o555)
    reader = ended(start(lambda: read_only(cache, sizes)))
    unchanged = sums(cache) == found and len(list(cache.glob("*.tmp"))) == left
    cache.chmod(0o755)
    return {
        "processes": processes,
        "killed": codes.count(-signal.SIGKILL),
        "failed": sum(code not in (0, -signal.SIGKILL) for code in codes),
        "kernels": kernels,
        "entries": len(entries),
        "half-written": sum(not sound for _, _, sound in entries),
        "right": sum(found.get(key) == good for key, good in sums(alone).items()),
        "private folders of the killed": left,
        "read-only accepted": int(reader == 0 and unchanged),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(fire(Path(folder), int(sys.argv[1]), int(sys.argv[2]), int((sys.argv[3:] or [0])[0]))))
