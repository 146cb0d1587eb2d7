"""The oracle sweep: it passes what is right, and a planted wrong kernel is reported, with exit code 3 and a reproduction."""

import dataclasses

import pytest

from treadle import check
from treadle.ir import build

#: program -> attributes that make a kernel compute something else.
PLANTS = {
    "norm.layer_norm": {"eps": 0.5},
    "scan.gspn_gates": {"direction": "l2r"},
}


def test_the_sweep_is_reproducible(treadle):
    line = ["check", "scan.gspn_gates", "--cases", "6", "--seed", "5", "--json"]
    first, second = treadle(*line).json["result"], treadle(*line).json["result"]
    assert first == second and first["mismatches"] == 0 and first["cases"] == 6


@pytest.mark.parametrize("program", PLANTS)
def test_a_planted_wrong_kernel_is_reported(treadle, monkeypatch, program):
    right = check.lower

    def wrong(p, target, space, point):
        other = build(p.name, p.dtype, {**p.attrs, **PLANTS[program]}, dict(p.bound))
        lowered = right(other, target)
        return dataclasses.replace(lowered, program=p, func=lowered.func.with_attr("global_symbol", p.symbol))

    monkeypatch.setattr(check, "lower", wrong)
    ran = treadle("check", program, "--cases", "3", "--json")
    assert ran.code == 3 and ran.json["result"]["mismatches"] > 0
    mismatch = ran.json["result"]["programs"][0]["mismatches"][0]
    assert {"seed", "case", "dtype", "attrs", "sizes", "schedule", "point", "result", "ratio"} <= set(mismatch)
    assert "mismatch" in treadle("check", program, "--cases", "3").out
