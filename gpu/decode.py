"""The decode table: scan.selective_state_update at P64 N128 with fp16 states, batch x heads 8 to 12288, beside a copy.

    python -m gpu.decode pack DIR     here: compile the bundles for sm_90a, by the dtype and rounding of the states
    python -m gpu.decode run DIR      there: hold each against the oracle, then time it; one line of JSON a row

A row's time is that of one launch in a CUDA graph of many over as many states as pass L2 together where one call's states alone
would not: what a model of several layers sees. Where they would stay in L2, a second figure calls the same states again.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

PROGRAM, TARGET = "scan.selective_state_update", "cuda:sm_90a"
P, N, G = 64, 128, 8
#: Batch x heads, and microseconds published for an H100 (vllm#43083).
TABLE = {
    8: 2.16, 16: 2.47, 32: 2.69, 64: 3.10, 128: 3.62, 256: 4.74, 512: 6.85, 1024: 11.15, 2048: 28.45, 4096: 55.5, 8192: 104.5,
    12288: 145.6,
}  # fmt: skip
HEADS = 64
STATES = ("float16", "float16_stochastic", "float32")
#: Bytes that pass any L2; launches of a graph.
PAST_L2, LAUNCHES = 256 << 20, 40


def pack(folder: Path) -> None:
    from treadle.api import compile_graph
    from treadle.ir import build
    from treadle.ir.graph import single

    for state in STATES:
        program = build(PROGRAM, "float16", {"state": state}, {"P": P, "N": N, "G": G})
        compile_graph(single(program), TARGET, folder / f"{state}.treadle")


def run(folder: Path) -> Iterator[dict[str, Any]]:
    import torch

    from treadle.runtime.session import load

    for state in STATES:
        session = load(folder / f"{state}.treadle", "cuda:0")
        yield {"state": state, **_checked(session, state)}
        for count, published in TABLE.items():
            rows = max(1, count // HEADS)
            given = _operands(rows, count // rows, state)
            kept = given["state"].numel() * given["state"].element_size()
            copies = max(1, min(LAUNCHES, -(-PAST_L2 // (2 * kept))))
            states = [given["state"].clone() for _ in range(copies)]
            out = {"y": torch.empty_like(given["x"])}
            seconds = {
                name: _seconds([partial(session.run, out=out, **(given | {"state": s})) for s in some])
                for name, some in (("us", states), ("us_same_states", states[:1]))
            }
            copy = _seconds([partial(s.copy_, given["state"]) for s in states])
            yield {
                "state": state, "batch_x_heads": count, **{n: 1e6 * t for n, t in seconds.items()}, "bytes": 2 * kept,
                "bytes_per_second": 2 * kept / seconds["us"], "of_copy": copy / seconds["us"],
                "published_us": published if state == "float16" else None,
            }  # fmt: skip


def _operands(rows: int, heads: int, state: str) -> dict[str, Any]:
    import torch

    r = torch.Generator("cuda").manual_seed(rows * heads)

    def normal(*shape: int, kind: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=r, device="cuda").to(kind)

    own, half = (G, heads // G), torch.float16
    made = {
        "state": normal(rows, *own, P, N, kind=getattr(torch, state.removesuffix("_stochastic"))),
        "x": normal(rows, 1, *own, P, kind=half), "dt": normal(rows, 1, *own), "A": -normal(*own).exp(),
        "B": normal(rows, 1, G, N, kind=half), "C": normal(rows, 1, G, N, kind=half), "D": normal(*own), "dt_bias": normal(*own),
    }  # fmt: skip
    if state.endswith("stochastic"):
        made |= {n: torch.full((1,), v, dtype=torch.int64, device="cuda") for n, v in (("seed", 7), ("offset", 0))}
    return made


def _checked(session: Any, state: str) -> dict[str, Any]:
    """The largest ratio of error to bound, of y and of the states, by the one tolerance."""
    import torch

    from treadle.ir.oracles.check import compare
    from treadle.ir.oracles.scan.selective_state_update import oracle

    given = _operands(2, 16, state)
    host = {n: t.cpu() for n, t in given.items()}
    attrs = {"state": state, "tied": True, "softplus": True, "dt_min": 0.0, "dt_max": math.inf, "gate": False, "slots": False}
    truth, yardstick = (oracle(attrs | {"history": False}, kind, **host) for kind in (torch.float64, torch.float32))
    found = {"y": session.run(**given)["y"].cpu(), "state": given["state"].cpu()}
    verdicts = {n: compare(y, truth[n], yardstick[n], 2.0**-10) for n, y in found.items()}
    return {"ok": all(v.ok for v in verdicts.values()), **{f"ratio_{n}": v.error / v.bound for n, v in verdicts.items()}}


def _seconds(calls: list[Callable[[], object]]) -> float:
    """Of one call, the median of 20 replays of a graph of them, taken by turns."""
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph, turns = torch.cuda.CUDAGraph(), max(1, LAUNCHES // len(calls))
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(turns):
            for call in calls:
                call()
    times = []
    for _ in range(21):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / (turns * len(calls)))
    return sorted(times[1:])[len(times) // 2]


def main(arguments: list[str]) -> int:
    match arguments:
        case ["pack", folder]:
            pack(Path(folder))
        case ["run", folder]:
            for row in run(Path(folder)):
                print(json.dumps(row), flush=True)
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
