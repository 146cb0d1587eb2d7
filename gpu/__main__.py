"""python -m gpu --kit KIT --out DIR [--only STAGE|PROGRAM,...] [--device cuda:0] [--quick]

Correctness of every kernel first, then the encoder, then time; DIR/results.json and one short table last. A kernel that is
wrong is not timed, and one that takes the device down takes nothing else with it. Exit code 0: all right; 3: a result is
wrong; 1: something did not run; 2: a misspelt argument.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpu import cases, report
from gpu.jobs import Job, Workers

STAGES = ("correctness", "cgspn", "bench")
#: Runs only when asked for: a memory checker makes everything many times slower.
EXTRA = "memcheck"
#: Seconds that a job may take: a kernel that never ends must not take the run with it.
PATIENCE, PATIENCE_CHECKED = 120.0, 300.0
DESCRIBE = Job("describe", "the machine")
SANITIZER = ("compute-sanitizer", "--tool=memcheck", "--error-exitcode=86")
Row = dict[str, Any]


class Run:
    """The jobs of the stages asked for, and what came of them; saved after each."""

    def __init__(self, kit: Path, out: Path, device: str, quick: bool, programs: Sequence[str]) -> None:
        self.kit, self.file, self.log, self.quick = kit, out / "results.json", out / "worker.log", quick
        self.device = device
        target, known, remarks = cases.read(kit / "kernels")
        self.cases = [(i, c) for i, c in enumerate(known) if not programs or c.program in programs]
        self.bundles = [] if programs else sorted(p.name for p in (kit / "bundles").iterdir())
        self.found: Row = {"command": sys.argv[1:], "target": target, "remarks": remarks}
        self.bad: set[object] = set()  # cases and bundles that are wrong or fail: their time means nothing
        self.log.unlink(missing_ok=True)

    def __call__(self, stages: Sequence[str]) -> int:
        workers = Workers(self._command(), self.log, PATIENCE)
        (machine,) = workers.do(DESCRIBE)
        self.found["machine"] = machine
        if machine.get("failed"):
            self._save()
            print(f"the device cannot be used: {machine['why']}", file=sys.stderr)
            return report.FAILED
        for stage in stages:
            if stage != EXTRA and "stopped" not in self.found:
                self._stage(stage, workers)
        workers.close()
        if EXTRA in stages and "stopped" not in self.found:
            self._sanitized()
        self._save()
        print("\n".join([*report.table(self.found), f"written: {self.file}"]))
        return report.exit_code(self.found)

    def _stage(self, stage: str, workers: Workers) -> None:
        self.found[stage] = []
        if stage == "bench":
            self.found["ceilings"] = []
        jobs = list(getattr(self, f"_{stage}")())
        for i, job in enumerate(jobs):
            print(f"{stage} {i + 1} of {len(jobs)}: {job.title}", file=sys.stderr, flush=True)
            rows = workers.do(job)
            failed = any(not row.get("ok", True) for row in rows)
            self.found["ceilings" if job.do == "ceilings" and not failed else stage] += rows
            if failed:
                self.bad.add(job.subject)
            if failed and not workers.alive and (answer := workers.do(DESCRIBE)[0]).get("failed"):
                self.found["stopped"] = f"after {job.title} the device answers no more: {answer['why']}"
            self._save()
            if "stopped" in self.found:
                return

    def _sanitized(self) -> None:
        """One allocation a tensor: in torch's large blocks the checker would not see where one ends."""
        log = self.file.with_name("memcheck-%p.log")
        command = [*SANITIZER, f"--log-file={log}", *self._command()]
        workers = Workers(command, self.log, PATIENCE_CHECKED, {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        self._stage(EXTRA, workers)
        if code := workers.close():
            why = f"compute-sanitizer ended with exit code {code}: see {log}"
            self.found[EXTRA].append({"program": "the whole run", "ok": False, "failed": True, "why": why})

    def _correctness(self) -> Iterator[Job]:
        for i, case in self.cases:
            for j in range(len(case.checked)):
                yield self._check(i, case, j)

    def _cgspn(self) -> Iterator[Job]:
        for name in self.bundles:
            yield Job("check_model", name, {"bundle": name, "graphs": True}, {"program": name})

    def _bench(self) -> Iterator[Job]:
        ceilings = Job("ceilings", "torch's copy and product", head={"program": "torch's copy and product"})
        yield ceilings
        for i, case in self.cases:
            if case.timed and i not in self.bad and (case.checked or not self.quick):  # rungs have their own, large sizes alone
                yield Job("time_kernel", case.title, {"case": i}, case.head)
        for name in self.bundles:
            if name not in self.bad:
                yield Job("time_model", name, {"bundle": name}, {"program": name})
        yield ceilings  # again: how far the machine itself drifts

    def _memcheck(self) -> Iterator[Job]:
        for i, case in ((i, c) for i, c in self.cases if c.checked):
            yield self._check(i, case, min(range(len(case.checked)), key=lambda j: case.checked[j].bytes))
        for name in self.bundles[:1]:
            yield Job("check_model", name, {"bundle": name, "graphs": False}, {"program": name})

    @staticmethod
    def _check(i: int, case: cases.Case, j: int) -> Job:
        sizes = dict(case.checked[j].sizes)
        return Job(
            "check_kernel", f"{case.title} at {cases.plain(sizes)}", {"case": i, "work": j}, {**case.head, "sizes": sizes}
        )

    def _command(self) -> list[str]:
        given = ["--kit", str(self.kit), "--device", self.device, *(["--quick"] if self.quick else [])]
        return [sys.executable, "-m", "gpu.worker", *given]

    def _save(self) -> None:
        report.save(self.found, self.file)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="stages and programs, separated by commas")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--quick", action="store_true", help="small sizes and few replays, to try the kit itself")
    given = parser.parse_args(arguments)
    wanted = [w for w in given.only.split(",") if w]
    known = sorted({c.program for c in cases.read(given.kit / "kernels")[1]})
    for w in wanted:
        if w not in (*STAGES, EXTRA, *known):
            parser.error(f"--only {w}: the stages are {', '.join((*STAGES, EXTRA, 'tests'))}; the programs {', '.join(known)}")
    stages = [s for s in (*STAGES, EXTRA) if s in wanted] or list(STAGES)
    if EXTRA in stages and shutil.which(SANITIZER[0]) is None:
        parser.error(f"--only {EXTRA}: no {SANITIZER[0]} on PATH; it comes with the CUDA toolkit")
    given.out.mkdir(parents=True, exist_ok=True)
    return Run(given.kit, given.out, given.device, given.quick, [w for w in wanted if w in known])(stages)


if __name__ == "__main__":
    raise SystemExit(main())
