"""The RMS norms as torch operators, held against their definition in float64, forward and backward."""

from __future__ import annotations

import pytest
import torch

import treadle.torch as tt
from treadle.errors import ArgumentError, TreadleError
from treadle.ir.oracles.check import compare
from treadle.ir.oracles.norm.rms import normed


def plain(x, weight):
    return (tt.rms_norm_fn(x, weight, eps=1e-5),)


def plain64(x, weight):
    return (normed(x, 1e-5) * weight,)


def added(x, weight, residual):
    return tt.rms_norm_fn(x, weight, residual=residual, eps=1e-5, prenorm=True)


def added64(x, weight, residual):
    return normed(x + residual, 1e-5) * weight, x + residual


def gate_first(x, weight, z):
    return (tt.rmsnorm_fn(x, weight, z=z, eps=1e-5, group_size=16, norm_before_gate=False),)


def gate_first64(x, weight, z):
    return ((normed((x * z * z.sigmoid()).unflatten(-1, (-1, 16)), 1e-5)).flatten(-2) * weight,)


def norm_first(x, weight, z):
    return (tt.rmsnorm_fn(x, weight, z=z, eps=1e-5),)


def norm_first64(x, weight, z):
    return (normed(x, 1e-5) * weight * z * z.sigmoid(),)


#: operator, definition, dtype of x, dtypes of the operands after x (weight, then residual or gate)
CASES = {
    "plain": (plain, plain64, torch.float32, (torch.float32,)),
    "plain, bf16 and its float32 weight": (plain, plain64, torch.bfloat16, (torch.float32,)),
    "residual": (added, added64, torch.float32, (torch.float32, torch.float32)),
    "residual in float32": (added, added64, torch.bfloat16, (torch.bfloat16, torch.float32)),
    "gate first, groups": (gate_first, gate_first64, torch.float32, (torch.float32, torch.float32)),
    "norm first, fp16": (norm_first, norm_first64, torch.float16, (torch.float16, torch.float16)),
}


def inputs(case, rows, seed=0):
    *_, first, others = CASES[case]
    random = torch.Generator().manual_seed(seed)
    shapes = [(*rows, 48), (48,), (*rows, 48)]
    return [torch.randn(s, generator=random).to(d) for s, d in zip(shapes, (first, *others), strict=False)]


def pulled(function, given, grads):
    leaves = [t.detach().requires_grad_() for t in given]
    results = function(*leaves)
    return [*results, *torch.autograd.grad(results, leaves, [g.to(r.dtype) for g, r in zip(grads, results, strict=True)])]


#: Each dtype of a case is two kernels of its own: most cases are left to the long run.
SOME = [c if c in ("residual in float32", "gate first, groups") else pytest.param(c, marks=pytest.mark.long) for c in CASES]


@pytest.mark.parametrize("case", SOME)
def test_forward_and_backward_equal_the_definition(case):
    op, definition, first, _ = CASES[case]
    for rows in ((3, 11), (40,), (1,)):
        given = inputs(case, rows)
        grads = [torch.randn(*rows, 48, generator=torch.Generator().manual_seed(i)).to(first) for i in range(2)][
            : 1 + (op is added)
        ]
        found = pulled(op, given, grads)
        truth, yardstick = (pulled(definition, [t.to(d) for t in given], grads) for d in (torch.float64, torch.float32))
        for y, y64, t32 in zip(found, truth, yardstick, strict=True):
            verdict = compare(y.detach().double(), y64.detach(), t32.detach().double(), torch.finfo(first).eps)
            assert verdict.ok, (rows, y.shape, verdict)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_the_definition_are_those_of_finite_differences(case):
    _, definition, *_ = CASES[case]
    given = [t.double().requires_grad_() for t in inputs(case, (2,))]
    assert torch.autograd.gradcheck(definition, given)


@pytest.mark.parametrize("case", SOME)
def test_a_row_is_the_same_bits_whatever_stands_beside_it(case):
    op = CASES[case][0]
    given = inputs(case, (37,))
    whole = op(*given)
    for first, last in ((0, 1), (5, 22), (36, 37)):
        alone = op(*(t[first:last] if t.dim() == 2 else t for t in given))
        assert all(torch.equal(a, w[first:last]) for a, w in zip(alone, whole, strict=True))


@pytest.mark.parametrize("name", ["rms_norm", "add_rms_norm", "rms_norm_gated"])
def test_registered_as_torch_asks(name):
    x, z, weight = torch.randn(5, 32), torch.randn(5, 32), torch.randn(32)
    shaped = [t.view(5, 2, 16).requires_grad_() for t in (x, z)]
    args = {
        "rms_norm": (x.requires_grad_(), weight, 1e-5),
        "add_rms_norm": (x.requires_grad_(), z, weight, 1e-5),
        "rms_norm_gated": (*shaped, weight.view(2, 16), 1e-5, False),
    }[name]
    torch.library.opcheck(getattr(torch.ops.treadle, name).default, args)


def test_any_stride_and_no_rows():
    x, weight = torch.randn(48, 7).t(), torch.randn(48)
    assert torch.equal(plain(x, weight)[0], plain(x.contiguous(), weight)[0])
    x = torch.empty(0, 48, requires_grad=True)
    w = weight.requires_grad_()
    y = plain(x, w)[0]
    y.sum().backward()
    assert y.shape == (0, 48) and torch.equal(w.grad, torch.zeros(48))


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w: tt.rms_norm_fn(x, w[:-1]),
        lambda x, w: tt.rms_norm_fn(x, w.half()),
        lambda x, w: tt.rms_norm_fn(x, w, bias=w),
        lambda x, w: tt.rms_norm_fn(x, w, dropout_p=0.1),
        lambda x, w: tt.rms_norm_fn(x, w, residual=x[:1]),
        lambda x, w: tt.rms_norm_fn(x.int(), w),
        lambda x, w: tt.rmsnorm_fn(x, w, z=x, group_size=5),
        lambda x, w: tt.rmsnorm_fn(x, w, group_size=16),
        lambda x, w: tt.rmsnorm_fn(x, w, z=x.half()),
    ],
)
def test_mistakes_are_refused_by_type(call):
    with pytest.raises(ArgumentError) as refused:
        call(torch.randn(3, 48), torch.randn(48))
    assert isinstance(refused.value, TreadleError) and refused.value.expected
