"""The process that touches the device: reads a job a line, answers with its rows a line, and dies alone.

After an error it asks the device whether it still answers. CUDA never forgives a fault: the process then says so and ends,
and the one that gives out the jobs goes on in a new one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gpu import correctness, facts, model, slices, timing
from gpu.kernels import Kernels
from treadle.runtime.devices import cuda_index

Row = dict[str, Any]


class Desk:
    """One method per kind of job; each returns rows."""

    def __init__(self, kit: Path, device: str, quick: bool) -> None:
        self.kit, self.device, self.quick = kit, device, quick

    def describe(self) -> list[Row]:
        return [{**facts.describe(self.device), "method": self._timer.method}]

    def check_kernel(self, case: int, work: int) -> list[Row]:
        chosen = self._kernels.cases[case]
        return correctness.check(self._kernels, chosen, chosen.checked[work])

    def check_model(self, bundle: str, graphs: bool) -> list[Row]:
        return model.check(self.kit / "bundles" / bundle, self.device, graphs)

    def ceilings(self) -> list[Row]:
        return [timing.ceilings(self._timer, self.quick)]

    def time_kernel(self, case: int) -> list[Row]:
        """Times what is right at this size too: a grid that no longer fits shows here and nowhere else."""
        chosen = self._kernels.cases[case]
        work = chosen.checked[0] if self.quick else chosen.timed
        assert work is not None
        if slices.needed(chosen, work):
            judged = slices.check(self._kernels, chosen, work)
        else:
            judged = correctness.check(self._kernels, chosen, work, oracle_on=self.device)
        wrong = [row for row in judged if not row["ok"]]
        return wrong or [{**timing.time_case(self._kernels, chosen, work, self._timer), "ok": True, "why": ""}]

    def time_model(self, bundle: str) -> list[Row]:
        return [{**model.time(self.kit / "bundles" / bundle, self._timer, self.quick), "ok": True, "why": ""}]

    @cached_property
    def _kernels(self) -> Kernels:
        return Kernels(self.kit, self.device)

    @cached_property
    def _timer(self) -> timing.Timer:
        return timing.Timer(self.device, replays=3, least=1e-4) if self.quick else timing.Timer(self.device)

    @property
    def broken(self) -> bool:
        if cuda_index(self.device) is None:
            return False
        try:
            torch.cuda.synchronize(self.device)
        except Exception:  # torch.AcceleratorError and others, by version
            return True
        return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="gpu.worker", description=__doc__.splitlines()[0])
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    # Answers go where standard output was; what anybody prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # The float32 yardstick must be float32, also where an oracle runs on the device.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    desk = Desk(given.kit, given.device, given.quick)
    for line in sys.stdin:
        job = json.loads(line)
        answer: Row = {"broken": False}
        try:
            answer["rows"] = getattr(desk, job["do"])(**job["with"])
        except Exception as wrong:  # of a kernel or the device: CUDA errors arrive as many kinds
            answer["failed"] = f"{type(wrong).__name__}: {' '.join(str(wrong).split())[:500]}"
            answer["broken"] = desk.broken
        print(json.dumps(answer), file=answers, flush=True)
        if answer["broken"]:
            os._exit(1)  # a clean exit would wait for the device


if __name__ == "__main__":
    main()
