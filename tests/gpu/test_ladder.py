"""The ladder in the kit: which rungs are timed at which sizes, large results judged by parts, and the table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gpu import choose, report, slices
from gpu.cases import Tensor
from treadle.codegen.lower import lower, spaces
from treadle.ir import build
from treadle.ir.oracles.scan import gspn
from treadle.schedules.target import Target

CUDA = Target.parse("cuda:sm_90a")


def cases(schedule, dtype="float32", direction="t2b"):
    program = build("scan.gspn", dtype, {"direction": direction})
    space = next(s for s in spaces(program, CUDA) if s.name == schedule)
    return choose.cases(lower(program, CUDA, space), CUDA, "scan.gspn-0.so")


def test_every_rung_is_checked_first_and_timed_at_the_published_sizes():
    timed = {}
    for rung in choose.RUNGS:
        whole, *others = cases(rung.schedule, direction=rung.direction)
        assert whole.checked and whole.rung is None and all(c.rung == rung.number and not c.checked for c in others)
        for c in others:
            timed.setdefault(report._planes({"sizes": c.timed.sizes}), set()).add(rung.schedule)
    assert timed["16x8x1024x1024"] >= {"per_step", "one_launch", "coalesced", "line", "shuffle", "staged", "tile"}
    assert timed["256x1x1024x1024"] >= {"per_step", "staged"}
    assert timed["1x1152x1024x1024 G=1"] >= {"per_step", "staged", "together"}
    assert timed["1x64x32x32"] >= {"per_step", "latency"} and timed["1x64x64x64"] >= {"per_step", "latency"}
    assert timed["1x16x4096x4096"] >= {"per_step", "coalesced", "cluster"}


def test_baselines_are_in_the_kit_though_never_the_default():
    added = {(k.schedule, k.program.dtype) for k in choose.ladder(CUDA, ["scan.gspn"], ["float32", "bfloat16"])}
    assert ("per_step", "float32") in added and ("one_launch", "bfloat16") in added and ("staged", "float32") not in added
    assert not list(choose.ladder(CUDA, ["norm.rms_norm"], ["float32"]))


class Kernels:
    """The oracle in place of a kernel, with something wrong at one element."""

    device = "cpu"

    def __init__(self, spoil=None):
        self.spoil = spoil

    def call(self, case, arrays):
        x, lam, gates, h = arrays

        def run():
            h.copy_(gspn.oracle(case.attrs, torch.float32, x=x, lam=lam, gates=gates)["h"])
            if self.spoil:
                h[self.spoil[0]] = self.spoil[1]

        return run


@pytest.mark.parametrize("g", [1, 6])
def test_large_results_are_judged_by_their_outer_planes(g):
    case = cases("staged")[1]
    work = replace(case.timed, sizes={"N": 2, "C": 6, "G": g, "H": 9, "W": 8})
    assert isinstance(case.args[0], Tensor) and not slices.needed(case, work)
    assert slices.needed(case, replace(work, bytes=9 << 30))
    assert [r["ok"] for r in slices.check(Kernels(), case, work)] == [True]
    for place, value in (((1, 5, 8, 7), 9.0), ((0, 3, 0, 0), torch.nan)):
        (row,) = slices.check(Kernels((place, value)), case, work)
        assert not row["ok"] and row["why"]


def test_the_table_compares_rungs():
    whole = {"ok": True, "dtype": "float32", "attrs": {"direction": "t2b"}, "bytes_per_second": 3e12}
    sizes = {"N": 1, "C": 64, "G": 64, "H": 32, "W": 32}
    rows = [
        {**whole, "rung": 8, "schedule": "latency", "sizes": sizes, "seconds": {"median": 4e-6}},
        {**whole, "rung": 1, "schedule": "per_step", "sizes": sizes, "seconds": {"median": 96e-6}, "attrs": {"direction": "l2r"}},
    ]
    head, first, second = report._ladder(rows, [{"copy": {"bytes_per_second": 3e12}}])
    assert first.startswith("1 per_step") and second.split()[-2:] == ["24.0", "125"] and "100%" in second
    assert "ns/step" in head
