"""The demo that `make demo` runs: a C-GSPN encoder, compiled for this CPU, run on two photographs, checked against torch.

Writes demo-out/cgspn-tiny.treadle and demo-out/features.png. The weights are random: the picture shows how the untrained
propagation spreads what it sees, not objects. Where there is an nvcc, the encoder is also compiled for a GPU, which need not
be there: demo-out/cgspn-tiny-sm_90a.treadle.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from treadle.api import compile_graph
from treadle.bench.copy import Copy
from treadle.bench.model import kernel_row
from treadle.bench.profile import profile
from treadle.bench.timing import interleave
from treadle.cli.arrays import read
from treadle.cli.output import escaped, table, working
from treadle.cli.units import size
from treadle.codegen import nvcc
from treadle.codegen.report import Predicted, predict
from treadle.dtypes import dtype
from treadle.errors import ToolchainError
from treadle.ir.graph import Graph
from treadle.ir.oracles.check import Verdict, compare
from treadle.models import build, configurations
from treadle.models.cgspn.oracle import encode
from treadle.runtime.session import Session, load

OUT = Path("demo-out")
ARCH = "sm_90a"
#: Photographs in scikit-image's wheel, one square and one not.
PHOTOS = ("astronaut.png", "coffee.png")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Photo:
    """A photograph, its features, the time they took and how far they are from torch's."""

    name: str
    image: Array
    features: Array
    seconds: float
    verdict: Verdict


def main() -> int:
    with working("compiling cgspn:tiny") as say:
        graph = build("cgspn", "tiny")
        report = compile_graph(graph, "cpu", OUT / "cgspn-tiny.treadle", seed=0, progress=say)
        session = load(OUT / "cgspn-tiny.treadle")
        photos = [encoded(session, name, say) for name in PHOTOS]
        say("timing the kernels")
        height, width = photos[0].image.shape[2:]
        sizes = {"N": 1, "H": height, "W": width}
        shares = profile(graph, session.bundle, {"image": photos[0].image}, sizes)
        with Copy() as copy:
            bandwidth = copy.bandwidth()
        picture(photos).save(OUT / "features.png")
        told = cross_compiled(graph, say)

    total = sum(s.seconds for s in shares)
    saved = report.arena_bytes_without_reuse - report.arena_bytes
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(
        kernel_table([kernel_row(s, total, bandwidth) for s in shares], f"cgspn:tiny on {photos[0].name}, {height} x {width}")
    )
    console.print(photo_table(photos))
    console.print(
        f"{report.kernels} kernels, {report.nodes} calls, {report.parameters:,} parameters; "
        f"copy bandwidth {bandwidth / 1e9:.1f} GB/s"
    )
    console.print(f"arena at the largest sizes: {size(report.arena_bytes)}, {size(saved)} saved by reuse")
    console.print(f"wrote {OUT / 'cgspn-tiny.treadle'} and {OUT / 'features.png'}\n")
    if isinstance(told, ToolchainError):
        console.print(f"not compiled for a GPU: {escaped(told)}")
    else:
        print_prediction(console, told, predict(graph, told, sizes), f"{height} x {width}")
    return 0 if all(p.verdict.ok for p in photos) else 3


def encoded(session: Session, name: str, say: Callable[[str], None]) -> Photo:
    """Encode a photograph and hold its features against the oracle: float64 is the truth, float32 the yardstick."""
    say(f"encoding {name}")
    (spec,) = session.manifest.entries[0].inputs
    image, _ = read(Path(str(resources.files("skimage.data") / name)), spec, session.manifest.dims)
    features = session.run(image=image)["features"]
    seconds = interleave({name: lambda: session.run(image=image)}, rounds=5)[name].median
    say(f"encoding {name} with torch")
    weights = {n: torch.from_numpy(np.array(a)) for n, a in session.bundle.weights.items()}
    truth, yardstick = (
        encode(weights, torch.from_numpy(image), configurations("cgspn")["tiny"], state)["features"]
        for state in (torch.float64, torch.float32)
    )
    eps = dtype(spec.dtype).eps or 0.0
    return Photo(name, image, features, seconds, compare(torch.from_numpy(features), truth, yardstick, eps))


def cross_compiled(graph: Graph, say: Callable[[str], None]) -> Mapping[str, Any] | ToolchainError:
    """The compiler's report on the encoder for sm_90a, or why there is no compiler."""
    try:
        nvcc.find()
    except ToolchainError as missing:
        return missing
    out = OUT / f"cgspn-tiny-{ARCH}.treadle"
    compile_graph(graph, f"cuda:{ARCH}", out, seed=0, progress=say)
    return json.loads((out / f"reports/{ARCH}.json").read_text())


def print_prediction(console: Console, told: Mapping[str, Any], rows: list[Predicted], image: str) -> None:
    device = told["device"]
    console.print(cuda_table(rows, f"cgspn:tiny compiled for {ARCH} on this machine, not run: {image}, float32"))
    console.print(
        f"predicted floor of all {sum(r.calls for r in rows)} calls {sum(r.seconds for r in rows) * 1e6:.0f} us: compulsory bytes "
        f"at {device['bandwidth_gbs']} GB/s or flops at {device['fp32_tflops']} TFLOP/s, the {device['name']}'s data-sheet "
        "figures; launches come on top"
    )
    console.print("none of these kernels has run on a GPU: registers and spills are the assembler's, times are arithmetic")


def cuda_table(rows: list[Predicted], title: str) -> Table:
    return table(
        ["kernel", ">calls", ">registers", ">shared", ">spills", ">floor, us", "set by"],
        [(r.kernel, r.calls, r.registers, size(r.shared), r.spills, f"{r.seconds / r.calls * 1e6:.2f}", r.by) for r in rows],
        title,
    )


def kernel_table(rows: list[dict[str, Any]], title: str) -> Table:
    return table(
        ["kernel", ">calls", ">ms", ">of time", ">of copy bandwidth", ">GFLOP/s"],
        [
            (
                r["program"],
                r["calls"],
                f"{r['seconds'] * 1e3:.2f}",
                f"{r['share_of_time']:.0%}",
                "" if r["share_of_copy"] is None else f"{r['share_of_copy']:.0%}",
                "" if r["flops_per_second"] is None else f"{r['flops_per_second'] / 1e9:.1f}",
            )
            for r in rows
        ],
        title,
    )


def photo_table(photos: list[Photo]) -> Table:
    return table(
        ["photograph", "features", ">ms", ">error against torch", ">allowed", ""],
        [
            (
                p.name,
                " x ".join(map(str, p.features.shape[1:])),
                f"{p.seconds * 1e3:.1f}",
                f"{p.verdict.error:.1e}",
                f"{p.verdict.bound:.1e}",
                "ok" if p.verdict.ok else "MISMATCH",
            )
            for p in photos
        ],
    )


def picture(photos: list[Photo], width: int = 480, gap: int = 8) -> Image.Image:
    """Each photograph beside the first three principal components of its features, as red, green and blue."""
    rows = []
    for p in photos:
        photo = Image.fromarray(((p.image[0].transpose(1, 2, 0) / 2 + 0.5) * 255).round().astype(np.uint8))
        shape = (width, width * photo.height // photo.width)
        rows.append((photo.resize(shape), Image.fromarray(components(p.features[0])).resize(shape, Image.Resampling.BICUBIC)))
    canvas = Image.new("RGB", (2 * width + gap, sum(a.height + gap for a, _ in rows) - gap), "white")
    top = 0
    for photo, features in rows:
        canvas.paste(photo, (0, top))
        canvas.paste(features, (width + gap, top))
        top += photo.height + gap
    return canvas


def components(features: Array) -> Array:
    """Features [C,h,w] as an RGB picture [h,w,3] of their three strongest directions, each stretched over its own range."""
    rows = features.reshape(len(features), -1).T
    rows = rows - rows.mean(0)
    strongest = rows @ np.linalg.eigh(rows.T @ rows)[1][:, :-4:-1]
    lo, hi = np.percentile(strongest, (1, 99), axis=0)
    return (np.clip((strongest - lo) / (hi - lo), 0, 1) * 255).astype(np.uint8).reshape(*features.shape[1:], 3)


if __name__ == "__main__":
    sys.exit(main())
