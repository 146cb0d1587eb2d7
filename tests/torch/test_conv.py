"""causal_conv1d_fn, held against a plain statement of the convolution in float64, forward and backward."""

from __future__ import annotations

import pytest
import torch

import treadle.torch as tt
from treadle.errors import ArgumentError, TreadleError, UnknownNameError
from treadle.ir.oracles.check import compare
from treadle.ir.oracles.scan.causal_conv1d import convolved


def plain(x, weight, bias, states, seq, activation):
    batch = len(x)
    attrs = {"activation": "silu" if activation else "none"}
    return convolved(attrs, x, weight.expand(batch, -1, -1), bias.expand(batch, -1), states, seq)


def drawn(b, d, length, width, dtype=torch.float32, seed=0):
    random = torch.Generator().manual_seed(seed)
    shapes = (b, d, length), (d, width), (d,), (b, d, width - 1)
    return [torch.randn(s, generator=random).to(dtype) for s in shapes]


def lying(x, layout):
    """The same values with channels contiguous, time contiguous, or neither."""
    if layout == "channels":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    return x if layout == "time" else x.repeat_interleave(2, -1)[..., ::2]


def pulled(function, given, grad):
    leaves = [t.detach().requires_grad_() for t in given]
    y = function(*leaves)
    return [y, *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


@pytest.mark.parametrize(
    ("layout", "width", "activation", "packed", "dtype"),
    [
        ("time", 4, "silu", False, torch.float32),
        pytest.param("channels", 4, "silu", True, torch.bfloat16, marks=pytest.mark.long),
        pytest.param("channels", 3, None, False, torch.float32, marks=pytest.mark.long),
        pytest.param("neither", 2, "swish", False, torch.float16, marks=pytest.mark.long),
    ],
)
def test_forward_and_backward_equal_the_definition(layout, width, activation, packed, dtype):
    for b, d, length in ((2, 5, 33), (1, 16, 3), (3, 24, 1), (1, 8, 300)):
        given = drawn(b, d, length, width, dtype)
        seq = torch.arange(length).expand(b, -1).int() // 7 if packed else None
        grad = torch.randn(b, d, length, generator=torch.Generator().manual_seed(1)).to(dtype)

        def op(x, weight, bias, states, seq=seq):
            return tt.causal_conv1d_fn(lying(x, layout), weight, bias, seq, states, activation=activation)

        found = pulled(op, given, grad)
        truth, yardstick = (
            pulled(lambda *leaves, s=seq: plain(*leaves, s, activation), [t.to(kind) for t in given], grad)
            for kind in (torch.float64, torch.float32)
        )
        for y, y64, t32 in zip(found, truth, yardstick, strict=True):
            verdict = compare(y.detach().double(), y64.detach(), t32.detach().double(), torch.finfo(dtype).eps)
            assert verdict.ok, (b, d, length, y.shape, verdict)


def test_gradients_of_the_definition_are_those_of_finite_differences():
    given = [t.double().requires_grad_() for t in drawn(2, 2, 6, 3)]
    seq = torch.tensor([[0, 0, 1, 1, 1, 2], [4, 4, 4, 4, 4, 4]])
    assert torch.autograd.gradcheck(lambda *leaves: plain(*leaves, seq, "silu"), given)


@pytest.mark.parametrize("layout", ["time", "channels"])
def test_cut_and_carried_on_equals_the_whole_to_the_bit(layout):
    x, weight, bias, states = drawn(2, 9, 70, 4)
    whole, last = tt.causal_conv1d_fn(lying(x, layout), weight, bias, None, states, True, activation="silu")
    pieces = []
    for piece in x.split([1, 2, 30, 37], -1):
        y, states = tt.causal_conv1d_fn(lying(piece, layout), weight, bias, None, states, True, activation="silu")
        pieces.append(y)
    assert torch.equal(torch.cat(pieces, -1), whole) and torch.equal(states, last)


@pytest.mark.parametrize("layout", ["time", "channels"])
def test_a_sequence_is_the_same_bits_alone_and_in_a_batch(layout):
    x, weight, bias, states = drawn(5, 24, 65, 4)
    whole = tt.causal_conv1d_fn(lying(x, layout), weight, bias, None, states, activation="silu")
    for b in range(5):
        alone = tt.causal_conv1d_fn(lying(x[b : b + 1], layout), weight, bias, None, states[b : b + 1], activation="silu")
        assert torch.equal(alone[0], whole[b])
    shorter = tt.causal_conv1d_fn(lying(x[..., :40], layout), weight, bias, None, states, activation="silu")
    assert torch.equal(shorter, whole[..., :40])


def test_packed_sequences_equal_separate_ones_to_the_bit():
    x, weight, bias, _ = drawn(1, 16, 60, 4)
    seq = torch.repeat_interleave(torch.arange(4), torch.tensor([1, 2, 40, 17]))[None]
    packed = tt.causal_conv1d_fn(lying(x, "channels"), weight, bias, seq, activation="silu")
    apart = [tt.causal_conv1d_fn(lying(p, "channels"), weight, bias, activation="silu") for p in x.split([1, 2, 40, 17], -1)]
    assert torch.equal(packed, torch.cat(apart, -1))


def test_final_states_reach_beyond_a_short_sequence_and_carry_gradients():
    x, weight, _, states = drawn(1, 4, 2, 4)
    x, states = x.requires_grad_(), states.requires_grad_()
    room = torch.empty(1, 4, 3)
    _, final = tt.causal_conv1d_fn(x, weight, None, None, states, True)
    assert torch.equal(final, torch.cat([states[..., 2:], x], -1))
    with torch.no_grad():
        assert tt.causal_conv1d_fn(x, weight, None, None, states, True, room)[1] is room and torch.equal(room, final)


def test_registered_as_torch_asks():
    x, weight, bias, states = drawn(2, 8, 12, 4)
    args = x.requires_grad_(), weight.t().contiguous(), bias, states, None, "bdl", "silu"
    torch.library.opcheck(torch.ops.treadle.causal_conv1d.default, args)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ArgumentError, lambda x, w: tt.causal_conv1d_fn(x, w[:, :1])),
        (ArgumentError, lambda x, w: tt.causal_conv1d_fn(x, w[:-1])),
        (ArgumentError, lambda x, w: tt.causal_conv1d_fn(x[0], w)),
        (ArgumentError, lambda x, w: tt.causal_conv1d_fn(x, w.half())),
        (ArgumentError, lambda x, w: tt.causal_conv1d_fn(x, w, initial_states=x)),
        (ArgumentError, lambda x, w: tt.causal_conv1d_fn(x, w, seq_idx=torch.zeros(2, 12))),
        (UnknownNameError, lambda x, w: tt.causal_conv1d_fn(x, w, activation="gelu")),
    ],
)
def test_mistakes_are_refused_by_type(error, call):
    with pytest.raises(error) as refused:
        call(torch.randn(2, 8, 12), torch.randn(8, 4))
    assert isinstance(refused.value, TreadleError)
