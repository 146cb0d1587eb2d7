"""python -m gpu --kit KIT --out DIR [--only correctness|cgspn|bench] [--device cuda:0] [--quick]

Exit code 0: all equal; 3: a mismatch. Nothing is timed after a mismatch: a wrong kernel's time means nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gpu import cases, correctness, model, report, timing

STAGES = ("correctness", "cgspn", "bench")
MISMATCH = 3


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=STAGES)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--quick", action="store_true", help="small sizes and few replays, to try the kit itself")
    given = parser.parse_args(arguments)
    stages = (given.only,) if given.only else STAGES
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": report.describe(given.device)}
    lines: list[str] = []
    bundles = sorted((given.kit / "bundles").iterdir())
    loaded, module = cases.load(given.kit / "kernels", given.device)

    if "correctness" in stages:
        rows = []
        for i, case in enumerate(loaded):
            _say(f"checking {i + 1} of {len(loaded)}: {case.title}")
            rows += correctness.check(case, module.get_function(case.symbol), given.device)
        found["correctness"] = rows
        lines += report.checked_lines("kernels", rows)
    if "cgspn" in stages:
        rows = []
        for bundle in bundles:
            _say(f"checking {bundle.name}")
            rows += model.check(bundle, given.device)
        found["cgspn"] = rows
        lines += report.checked_lines("cgspn:tiny", rows)
    wrong = [r for stage in ("correctness", "cgspn") for r in found.get(stage, ()) if not r["ok"]]
    if "bench" in stages and not wrong:
        found["bench"] = _bench(loaded, module, bundles, given.device, given.quick)
        lines += report.timed_lines([*found["bench"]["kernels"], *found["bench"]["models"]], found["bench"]["ceilings"])

    name = f"{given.only or 'all'}.json"
    (given.out / name).write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join([*lines, f"written: {given.out / name}"]))
    return MISMATCH if wrong else 0


def _bench(loaded: list[cases.Case], module: Any, bundles: list[Path], device: str, quick: bool) -> dict[str, Any]:
    timer = timing.Timer(device, replays=3, least=1e-4) if quick else timing.Timer(device)
    _say("measuring torch's copy and product")
    found: dict[str, Any] = {"method": timer.method, "ceilings": timing.ceilings(timer, quick), "kernels": [], "models": []}
    chosen = [c for c in loaded if c.timed]
    for i, case in enumerate(chosen):
        _say(f"timing {i + 1} of {len(chosen)}: {case.title}")
        work = case.checked[0] if quick else case.timed
        assert work is not None
        found["kernels"].append(timing.time_case(case, module.get_function(case.symbol), work, timer))
    for bundle in bundles:
        _say(f"timing {bundle.name}")
        found["models"].append(model.time(bundle, timer, quick))
    return found


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
