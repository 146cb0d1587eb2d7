"""The ladder of CUDA schedules of scan.gspn: what nvcc makes of each rung, and what arithmetic expects of it. Nothing is run.

    treadle bench scan.gspn_ladder --target cuda:sm_90a -o bench/results/predicted/gspn_ladder.json

A prediction is the longest of what a rung must do, each from a figure that is written here and can be found wrong:

    bus     compulsory bytes, at the share of the peak that a copy reaches
    L2      bytes asked of it: each load once, or 32 bytes a load where elements lie apart (from L2 while one sector of every
            row stays there, else from memory); channels that share a thread ask once for shared gates
    walk    steps, each as long as the slowest of its chain (barrier, shuffle, launch) and of its loads: a load that runs
            `ahead` steps ahead may take as long as so many steps (Little's law, said of one block)

Where one block is alone on its multiprocessor and nothing is loaded ahead, walk and bytes do not overlap, and are added. The
longest part is a bound, not a forecast: where two parts are close, expect less.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from treadle.bench.report import Column, Report, giga, milliseconds, percent
from treadle.codegen import cuda, nvcc
from treadle.codegen.lower import lower, spaces
from treadle.codegen.occupancy import occupancy
from treadle.ir import build
from treadle.schedules.target import Gpu, Target

#: Seconds from a load to its value with the bus busy; share of the peak that a copy reaches; bytes a second from L2, and how
#: much of it (one of two halves is near). All of H100, from others' measurements: the kit measures the second.
LATENCY, COPY, L2_RATE, L2_NEAR, SECTOR = 0.8e-6, 0.92, 5.5e12, 25 << 20, 32
#: Seconds of a launch among others in a CUDA graph, of the first, and of the chain of a step by how neighbours meet.
LAUNCH, START = 2.2e-6, 3e-6
BARRIER, SHUFFLE, SHUFFLE_BARRIER, CLUSTER = 60e-9, 30e-9, 55e-9, 180e-9


@dataclass(frozen=True)
class Rung:
    """A schedule, where it is shown, and what the arithmetic needs to know of it."""

    number: int
    schedule: str
    direction: str
    chain: float
    #: accesses of an element, where elements lie apart
    sectors: int = 0
    launches: bool = False


RUNGS = (
    Rung(1, "per_step", "l2r", 0.0, sectors=9, launches=True),
    Rung(2, "one_launch", "l2r", BARRIER, sectors=6),
    Rung(3, "coalesced", "t2b", BARRIER),
    Rung(4, "line", "t2b", BARRIER),
    Rung(4, "shuffle", "t2b", SHUFFLE_BARRIER),
    Rung(5, "together", "t2b", BARRIER),
    Rung(6, "staged", "t2b", BARRIER),
    Rung(7, "tile", "l2r", BARRIER),
    Rung(8, "latency", "t2b", SHUFFLE),
    Rung(9, "cluster", "t2b", CLUSTER),
)
#: (name, sizes): the published ones, small maps, and lines longer than a block.
SIZES: Mapping[str, Mapping[str, int]] = {
    "16x8x1024x1024": {"N": 16, "C": 8, "G": 8, "H": 1024, "W": 1024},
    "256x1x1024x1024": {"N": 256, "C": 1, "G": 1, "H": 1024, "W": 1024},
    "1x1152x1024x1024 G=1": {"N": 1, "C": 1152, "G": 1, "H": 1024, "W": 1024},
    "1x64x32x32": {"N": 1, "C": 64, "G": 64, "H": 32, "W": 32},
    "1x64x64x64": {"N": 1, "C": 64, "G": 64, "H": 64, "W": 64},
    "1x16x4096x4096": {"N": 1, "C": 16, "G": 16, "H": 4096, "W": 4096},
}
DTYPES = ("float32", "bfloat16")
#: Rungs that put several short lines into one block.
LANES = ("line", "shuffle", "together", "staged")

LAYOUT = (
    Column(">rung", "number"),
    *(Column(name, name) for name in ("schedule", "dtype", "sizes")),
    Column(">regs", "registers"),
    *(Column(f">{name}", name) for name in ("shared", "spills")),
    Column(">warps/SM", "warps"),
    Column(">in flight", "in_flight", lambda b: f"{b / 1024:.0f} KiB"),
    Column("bound by", "bound_by"),
    Column(">ms", "seconds", milliseconds),
    Column(">GB/s", "bytes_per_second", giga),
    Column(">of peak", "share_of_peak", percent),
    Column(">ns/step", "seconds_per_step", lambda s: f"{s * 1e9:.0f}"),
)


#: A rung compiled for one size, as the assembler reports its one kernel.
Made = namedtuple("Made", "threads registers shared spills blocks warps")


def measure(target: str, progress: Callable[[str], None]) -> Report:
    """Compile every rung at every size that it is meant for, and predict."""
    goal = Target.parse(target)
    (gpu,) = goal.gpus
    rows = []
    for rung in RUNGS:
        progress(f"compiling {rung.schedule}")
        rows += _rung(rung, goal, gpu)
    need = LATENCY * gpu.bandwidth * 1e9 / gpu.sms
    return Report(
        "scan.gspn_ladder",
        f"scan.gspn, predicted for {gpu.device} ({gpu.bandwidth} GB/s); compiled for {gpu.arch}, not run",
        LAYOUT,
        rows,
        "predicted: the longest of bus, sectors and walk, from the figures in bench/scan/gspn_ladder.py",
        {"predicted_for": gpu.device, "peak_bytes_per_second": gpu.bandwidth * 1e9, "compiler": nvcc.find().label},
        [
            f"in flight: bytes of loads under way on a multiprocessor; {LATENCY * 1e9:.0f} ns at full rate need {need / 1024:.0f} KiB",
            "regs, shared, spills, warps/SM: the compiler's report; everything else is arithmetic",
        ],
    )


def _rung(rung: Rung, goal: Target, gpu: Gpu) -> list[dict[str, Any]]:
    kernels, asked = [], []
    for name, sizes in SIZES.items():
        for dtype in DTYPES:
            swapped = {**sizes, "H": sizes["W"], "W": sizes["H"]}
            program = build("scan.gspn", dtype, {"direction": rung.direction}, sizes if rung.direction == "t2b" else swapped)
            space = next((s for s in spaces(program, goal) if s.name == rung.schedule), None)
            if space is None or not meant(rung, sizes, space.point()):
                continue
            kernels.append(lower(program, goal, space))
            asked.append((name, dtype, sizes))
    made = cuda.assemble(kernels, goal)
    found = {k.of.symbol: k for k in made.kernels}
    rows = []
    for lowered, (name, dtype, sizes) in zip(kernels, asked, strict=True):
        kernel = found[lowered.symbol]
        used = made.usage[gpu.arch][kernel.name]
        assert kernel.threads is not None
        shared = used.static_shared + (kernel.dynamic_shared or 0)
        fits = occupancy(gpu, kernel.threads, used.registers, shared)
        facts = Made(kernel.threads, used.registers, shared, used.spill_stores + used.spill_loads + used.stack, fits.blocks, fits.warps)
        cost = lowered.program.cost(sizes).bytes
        told = predict(rung, lowered.point, sizes, dtype, cost, facts, gpu)
        rows.append(
            {"number": rung.number, "schedule": rung.schedule, "direction": rung.direction, "dtype": dtype, "sizes": name,
             "point": asdict(lowered.point), "bytes": cost, **facts._asdict(), **told}
        )  # fmt: skip
    return rows


def meant(rung: Rung, sizes: Mapping[str, int], point: Any) -> bool:
    """Whether a rung's own kernel serves these sizes, and whether it is there for them."""
    small, long = sizes["W"] <= 128, sizes["W"] > 2048
    if rung.schedule == "latency":
        return small
    if rung.schedule == "together":
        return sizes["G"] == 1 and sizes["C"] > 1
    if rung.schedule == "cluster":
        return long
    if rung.schedule in ("line", "shuffle", "staged"):
        return sizes["W"] <= point.threads * point.columns
    return rung.schedule != "tile" or not long


def predict(rung: Rung, point: Any, sizes: Mapping[str, int], dtype: str, cost: int, made: Made, gpu: Gpu) -> dict[str, Any]:
    """Seconds of a call, what they are made of, and the rates that follow."""
    item = 4 if dtype == "float32" else 2
    lines, width, steps = sizes["N"] * sizes["C"], sizes["W"], sizes["H"]
    columns, ahead = getattr(point, "columns", 1), getattr(point, "ahead", 0)
    channels = getattr(point, "each", 1)
    across = min(made.threads, 32) if width <= 32 * columns else made.threads
    lanes = made.threads // across * channels if rung.schedule in LANES else 1
    ctas = point.ctas if rung.schedule == "cluster" else 1
    blocks = -(-lines * width // made.threads) if rung.launches else -(-lines // lanes) * ctas
    resident = min(made.blocks, -(-blocks // gpu.sms))
    waves = -(-blocks // (gpu.sms * resident))
    loads = (2 * channels + 3) * item * columns  # bytes that a thread loads at once
    turns = -(-width // made.threads) if rung.schedule in ("one_launch", "coalesced") else 1
    if rung.schedule == "tile":
        pieces = -(-width * point.steps * item // 16 // made.threads)
        ahead = int(point.ahead) if made.threads * point.rows >= width else 0
        chain = rung.chain + 2 * BARRIER / point.steps
        in_flight = resident * made.threads * 5 * 16 * (pieces if ahead else 1)
        step = max(chain, LATENCY / point.steps) if ahead else chain + pieces * LATENCY / point.steps
    else:
        busy = made.threads if turns > 1 or rung.launches else min(made.threads, lanes // channels * -(-width // (columns * ctas)))
        in_flight = resident * busy * loads * max(1, ahead)
        step = max(rung.chain, LATENCY / ahead) if ahead else rung.chain + turns * LATENCY
    bus = cost / (COPY * gpu.bandwidth * 1e9)
    walk = steps * (LAUNCH + waves * LATENCY if rung.launches else waves * step)
    elements = lines * width * steps
    asked = elements * (rung.sectors * SECTOR if rung.sectors else (3 + 3 / channels) * item)
    live = rung.sectors * SECTOR * width * (lines if rung.launches else min(lines, gpu.sms * resident))
    parts = {"bus": bus, "L2": asked / (L2_RATE if live <= L2_NEAR else COPY * gpu.bandwidth * 1e9), "walk": walk}
    alone = not ahead and (resident == 1 or rung.launches)
    bound = max(parts, key=parts.__getitem__)
    seconds = START + LATENCY + (walk + max(bus, parts["L2"]) if alone else max(parts.values()))
    return {
        "in_flight": in_flight, "waves": waves, "parts": parts, "bound_by": bound, "seconds": seconds,
        "bytes_per_second": cost / seconds, "share_of_peak": cost / seconds / (gpu.bandwidth * 1e9),
        "seconds_per_step": walk / steps / waves,
    }  # fmt: skip
