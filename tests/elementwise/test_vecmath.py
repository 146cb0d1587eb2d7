"""Exponentials and bfloat16 conversions as arithmetic, against float64 and against torch."""

import numpy as np
import pytest
import torch
import tvm
from tvm import te, tirx
from tvm.ir import IRModule

from treadle.schedules import moves
from treadle.schedules.cpu import vecmath


def compiled(function, source, result):
    n = tirx.Var("n", "int64")
    x = te.placeholder((n,), source, "x")
    y = te.compute((n,), lambda i: function(x[i]), "y")
    func = te.create_prim_func([x, y]).with_attr("global_symbol", "kernel")
    func = vecmath.vectorise(moves.realign_buffers(func))
    kernel = tvm.compile(IRModule({"kernel": func}), target={"kind": "llvm", "mcpu": "x86-64-v3"}).mod["kernel"]

    def run(values):
        out = torch.empty(values.shape, dtype=getattr(torch, result))
        kernel(values, out)
        return out

    return run


@pytest.fixture(scope="module")
def exp():
    return compiled(tirx.exp, "float32", "float32")


def worst_ulps(exp, stride):
    """The largest error over every `stride`-th float32 from 2^-26 to 104 and its negative, in ulps of the true result."""
    low, high = (int(np.float32(v).view(np.uint32)) for v in (2.0**-26, 104.0))
    worst = 0.0
    for start in range(low, high, stride << 20):
        positive = np.arange(start, min(high, start + (stride << 20)), stride, np.uint32).view(np.float32)
        for x in (positive[positive < 88.7228], -positive):
            if not len(x):
                continue
            truth = np.exp(x.astype(np.float64))
            spacing = np.spacing(np.maximum(truth, np.finfo(np.float32).tiny).astype(np.float32)).astype(np.float64)
            worst = max(worst, float(np.max(np.abs(exp(torch.from_numpy(x)).numpy() - truth) / spacing)))
    return worst


def test_exp_is_within_two_ulps(exp):
    assert worst_ulps(exp, stride=37) <= 1.02


@pytest.mark.long
def test_exp_is_within_two_ulps_of_every_float(exp):
    assert worst_ulps(exp, stride=1) <= 1.02


def test_exp_at_the_edges(exp):
    x = torch.tensor(
        [0.0, -0.0, 1e-40, 88.72, 88.73, 1e4, torch.inf, -87.34, -100.0, -103.9, -103.98, -1e4, -torch.inf, torch.nan]
    )
    torch.testing.assert_close(exp(x), torch.exp(x.double()).float(), rtol=1e-6, atol=1.5e-45, equal_nan=True)
    assert exp(x[5:7]).tolist() == [torch.inf] * 2 and exp(x[11:13]).tolist() == [0.0] * 2


def test_exp_of_any_offset_view(exp):
    base = torch.randn(40)
    for start in range(1, 9):
        torch.testing.assert_close(exp(base[start : start + 31]), torch.exp(base[start : start + 31]), rtol=3e-7, atol=0)


def test_nested_exponentials():
    run = compiled(lambda v: tirx.exp(-tirx.exp(v)), "float32", "float32")
    x = torch.linspace(-5, 3, 101)
    torch.testing.assert_close(run(x), torch.exp(-torch.exp(x.double())).float(), rtol=4e-6, atol=0)


def test_every_bfloat16_widens_exactly():
    run = compiled(lambda v: v.astype("float32"), "bfloat16", "float32")
    every = torch.arange(1 << 16).to(torch.uint16).view(torch.bfloat16)
    torch.testing.assert_close(run(every), every.float(), rtol=0, atol=0, equal_nan=True)


def test_float32_rounds_to_bfloat16_as_torch_does():
    run = compiled(lambda v: v.astype("bfloat16"), "float32", "bfloat16")
    bits = np.arange(0, 1 << 32, 4099, dtype=np.uint64).astype(np.uint32)
    ties = (np.arange(1 << 16, dtype=np.uint32) << 16) | 0x8000
    x = torch.from_numpy(np.concatenate([bits, ties]).view(np.float32))
    torch.testing.assert_close(run(x), x.to(torch.bfloat16), rtol=0, atol=0, equal_nan=True)
    assert run(torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)).isnan().all()


def test_a_coarser_polynomial_is_caught(monkeypatch):
    monkeypatch.setattr(vecmath, "_POLYNOMIAL", vecmath._POLYNOMIAL[1:])
    assert worst_ulps(compiled(tirx.exp, "float32", "float32"), stride=4001) > 2
