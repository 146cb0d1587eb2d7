"""What a run leaves: one JSON file, kept up to date, and a table short enough for the end of a terminal's output.

python -m gpu.report RESULTS.json prints the table of a run that was cut short.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu.cases import plain

Row = dict[str, Any]
MISMATCH, FAILED = 3, 1
_SHOWN = 20
#: How the stages that check are called in the table.
CHECKS = {"correctness": "kernels", "cgspn": "cgspn:tiny", "memcheck": "under compute-sanitizer"}


def save(found: Row, file: Path) -> None:
    """Whole or not at all: a run may be killed at any time."""
    draft = file.with_suffix(".part")
    draft.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    draft.replace(file)


def exit_code(found: Row) -> int:
    """3 if a result is wrong, else 1 if something did not run, else 0."""
    bad = [row for row in rows_of(found) if not row["ok"]]
    return 0 if not bad else FAILED if all(row.get("failed") for row in bad) else MISMATCH


def rows_of(found: Row) -> list[Row]:
    """Everything that can be ok or not."""
    return [row for stage in CHECKS for row in found.get(stage, ())] + found.get("bench", [])


def table(found: Row) -> list[str]:
    lines = [f"when packed: {k['kernel'][:100]}: {k['why'][:120]}" for k in found["remarks"]]
    for stage, title in CHECKS.items():
        if stage in found:
            lines += _checked(title, found[stage])
    if "bench" in found:
        lines += _timed(found["bench"], found["ceilings"])
    return lines + ([f"stopped {found['stopped']}"] if "stopped" in found else [])


def _checked(title: str, rows: Sequence[Row]) -> list[str]:
    """A line of totals, then a line for each failure."""
    wrong = [r for r in rows if not r["ok"]]
    failed = sum(bool(r.get("failed")) for r in wrong)
    worst = max((r["error"] / r["bound"] for r in rows if r["ok"] and r.get("bound")), default=0.0)
    routes = sorted({r["route"] for r in rows if "route" in r})
    by = f" by route{'s' if len(routes) > 1 else ''} {' and '.join(routes)}" if routes else ""
    counts = f"{len(rows)} results{by}, {len(wrong) - failed} wrong, {failed} failed"
    return [f"{title}: {counts}, worst error {worst:.2f} of its bound", *_bad(wrong)]


def _bad(rows: Sequence[Row]) -> list[str]:
    lines = [f"  {_name(r)} {r.get('dtype', '')} at {plain(r.get('sizes', {}))}: {r['why'][:200]}" for r in rows[:_SHOWN]]
    return lines + ([f"  and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else [])


def _timed(rows: Sequence[Row], ceilings: Sequence[Row]) -> list[str]:
    """Per kernel: time, bytes and operations per second, and each as a share of torch's copy and product."""
    lines = [_ceiling(when, c) for when, c in zip(("before", "after"), ceilings, strict=False)]
    lines.append(f"{'kernel':<50}{'dtype':<10}{'us':>9}{'p90':>9}{'GB/s':>8}{'copy':>6}{'TF/s':>8}{'mm':>6}")
    for r in (r for r in rows if r["ok"] and "seconds" in r and "rung" not in r):
        median, p90 = r["seconds"]["median"], r["seconds"]["p90"]
        line = f"{_name(r):<50.49}{r['dtype']:<10}{median * 1e6:>9.1f}{p90 * 1e6:>9.1f}"
        if "bytes_per_second" in r:
            bytes_, flops = r["bytes_per_second"], r["flops_per_second"]
            line += f"{bytes_ / 1e9:>8.0f}{_share(bytes_, ceilings, 'copy', 'bytes_per_second')}"
            line += f"{flops / 1e12:>8.2f}{_share(flops, ceilings, 'matmul', r['dtype'], 'flops_per_second')}"
        lines.append(line)
    return lines + _ladder([r for r in rows if r["ok"] and "rung" in r], ceilings) + _bad([r for r in rows if not r["ok"]])


def _ladder(rows: Sequence[Row], ceilings: Sequence[Row]) -> list[str]:
    """Rungs beside each other: at each size and dtype, how much faster than launches step by step, in float32 as they are."""
    if not rows:
        return []
    lines = [f"{'rung':<18}{'sizes':<22}{'dtype':<10}{'us':>10}{'GB/s':>7}{'copy':>6}{'x':>7}{'ns/step':>9}"]
    kept = sorted(rows, key=lambda r: (_planes(r), r["dtype"] != "float32", r["rung"], r["schedule"]))
    base = {_planes(r): r["seconds"]["median"] for r in kept if r["schedule"] == "per_step"}
    for r in kept:
        seconds, steps = r["seconds"]["median"], r["sizes"]["H" if r["attrs"]["direction"] in ("t2b", "b2t") else "W"]
        times = f"{base[_planes(r)] / seconds:>7.1f}" if _planes(r) in base else f"{'':>7}"
        name = f"{r['rung']} {r['schedule']}"
        lines.append(
            f"{name:<18}{_planes(r):<22}{r['dtype']:<10}{seconds * 1e6:>10.1f}{r['bytes_per_second'] / 1e9:>7.0f}"
            f"{_share(r['bytes_per_second'], ceilings, 'copy', 'bytes_per_second')}{times}{seconds / steps * 1e9:>9.0f}"
        )
    return lines


def _planes(r: Row) -> str:
    n, c, g, h, w = (r["sizes"][d] for d in "NCGHW")
    return f"{n}x{c}x{h}x{w}{' G=1' if g != c else ''}"


def _ceiling(when: str, c: Row) -> str:
    products = ", ".join(f"{kind} {p['flops_per_second'] / 1e12:.1f} TFLOP/s" for kind, p in c["matmul"].items())
    return f"torch, {when}: copy {c['copy']['bytes_per_second'] / 1e9:.0f} GB/s; product {products}"


def _share(rate: float, ceilings: Sequence[Row], *path: str) -> str:
    """Of the first ceiling measured; nothing where it was not."""
    if not ceilings:
        return f"{'':>6}"
    ceiling: Any = ceilings[0]
    for key in path:
        ceiling = ceiling[key]
    return f"{rate / ceiling:>6.0%}"


def _name(r: Row) -> str:
    point = "" if r.get("default", True) else plain(r["point"])
    return " ".join(filter(None, (r.get("program", ""), plain(r.get("attrs", {})), point)))


if __name__ == "__main__":
    print("\n".join(table(json.loads(Path(sys.argv[1]).read_text()))))
