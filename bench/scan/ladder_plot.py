"""The ladder as a picture, from the JSON of treadle bench scan.gspn_ladder.

    python -m treadle.bench.scan.ladder_plot bench/results/predicted/gspn_ladder.json docs/kernels/gspn_ladder.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

#: What each rung is shown at, and how the plot calls it.
SHOWN = (
    ("per_step", "16x8x1024x1024", "1  launch per step\nstrided"),
    ("one_launch", "16x8x1024x1024", "2  one launch\nstrided"),
    ("coalesced", "16x8x1024x1024", "3  coalesced"),
    ("line", "16x8x1024x1024", "4  registers,\nshared edges"),
    ("shuffle", "16x8x1024x1024", "4  registers,\nshuffles"),
    ("staged", "16x8x1024x1024", "6  staged by\ncp.async"),
    ("tile", "16x8x1024x1024", "7  tiles turned\n(l2r)"),
    ("line", "1x1152x1024x1024 G=1", "4  shared gates,\na channel a thread"),
    ("together", "1x1152x1024x1024 G=1", "5  shared gates,\nfour together"),
    ("coalesced", "1x16x4096x4096", "3  lines of 4096,\none block"),
    ("cluster", "1x16x4096x4096", "9  lines of 4096,\nclusters"),
)
#: Rungs of small maps, by the time of a step.
SMALL = ("per_step", "one_launch", "line", "staged", "tile", "latency")
COLOURS = {"float32": "#33658a", "bfloat16": "#f6ae2d"}


def draw(report: dict[str, Any], out: Path) -> None:
    plt.rcParams.update({"font.family": "sans-serif", "font.size": 8, "svg.hashsalt": "treadle", "svg.fonttype": "none"})
    rows = {(r["schedule"], r["sizes"], r["dtype"]): r for r in report["rows"]}
    figure, (wide, small) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(3, 1.1))
    peak = report["peak_bytes_per_second"] / 1e12
    for d, (dtype, colour) in enumerate(COLOURS.items()):
        for y, (schedule, sizes, _) in enumerate(SHOWN):
            if row := rows.get((schedule, sizes, dtype)):
                rate = row["bytes_per_second"] / 1e12
                wide.barh(y + 0.38 * d - 0.19, rate, 0.34, color=colour, label=dtype if y == 1 else None)
                wide.text(rate + 0.02, y + 0.38 * d - 0.19, f"{rate:.2f}", va="center", fontsize=7)
        for y, schedule in enumerate(SMALL):
            if row := rows.get((schedule, "1x64x32x32", dtype)):
                time = row["seconds_per_step"] * 1e9
                small.barh(y + 0.38 * d - 0.19, time, 0.34, color=colour)
                small.text(time * 1.1, y + 0.38 * d - 0.19, f"{time:.0f}", va="center", fontsize=7)
    wide.axvline(peak, color="#888888", linewidth=0.8, linestyle="--")
    wide.text(peak - 0.02, -0.75, f"peak {peak:.2f}", ha="right", color="#666666", fontsize=7)
    wide.set_yticks(range(len(SHOWN)), [label for *_, label in SHOWN])
    wide.set_xlabel("TB/s of compulsory bytes, predicted")
    wide.set_title("Planes of 1024 x 1024, and of 4096 x 4096", loc="left", fontsize=9)
    wide.legend(loc="lower left", bbox_to_anchor=(0.55, 0.72), frameon=False)
    small.set_yticks(range(len(SMALL)), SMALL)
    small.set_xscale("log")
    small.set_xlim(10, 10000)
    small.set_xlabel("ns a step, predicted")
    small.set_title("32 x 32, 64 lines", loc="left", fontsize=9)
    for axes in (wide, small):
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"scan.gspn forward: predicted for {report['predicted_for']}, nothing here was measured", x=0.01, ha="left")
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    (report,) = json.loads(Path(sys.argv[1]).read_text())
    draw(report, Path(sys.argv[2]))
