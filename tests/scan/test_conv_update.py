"""causal_conv1d_update: against its oracle, against the convolution of the whole, in rings and slots, and what is refused."""

from __future__ import annotations

import pytest
import torch

import treadle.torch as tt
from treadle.check import sweep
from treadle.errors import ArgumentError

PROGRAM = "scan.causal_conv1d_update"


def drawn(batch=3, d=10, width=4, kept=4, slots=None, steps=1, seed=0, dtype=torch.float32):
    r = torch.Generator().manual_seed(seed)
    shapes = (batch, d, steps), (slots or batch, d, kept), (d, width), (d,)
    x, state, weight, bias = (torch.randn(s, generator=r).to(dtype) for s in shapes)
    return {"x": x, "conv_state": state, "weight": weight, "bias": bias, "activation": "silu"}


def test_random_cases_equal_the_oracle():
    (found,) = sweep([PROGRAM], "cpu", cases=12)
    assert not found.mismatches


@pytest.mark.long
def test_many_random_cases_equal_the_oracle():
    for seed in range(1, 4):
        (found,) = sweep([PROGRAM], "cpu", cases=200, seed=seed)
        assert not found.mismatches


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("layout", ["bdl", "bld"])
def test_a_sequence_cut_and_carried_is_the_sequence_whole(ring, layout):
    """Bit by bit: prompt by causal_conv1d_fn, then steps of 1, 2, 5 and 1 against its last ones."""
    given = drawn(steps=20)
    weight, bias, x = given["weight"], given["bias"], given["x"]
    whole = tt.causal_conv1d_fn(x, weight, bias, activation="silu")
    state = torch.zeros(3, 10, 5)
    if layout == "bld":
        state = torch.zeros(3, 5, 10).transpose(1, 2)
    at = 11
    for t in range(at - 5, at):
        state[..., t % 5 if ring else t - (at - 5)] = x[..., t]
    for steps in (1, 2, 5, 1):
        before = {"cache_seqlens": torch.full((3,), at)} if ring else {}
        part = x[..., at : at + steps]
        y = tt.causal_conv1d_update(part if steps > 1 else part[..., 0], state, weight, bias, "silu", **before)
        assert torch.equal(y.view(part.shape), whole[..., at : at + steps])
        at += steps
    for t in range(at - 5, at):
        assert torch.equal(state[..., t % 5 if ring else t - (at - 5)], x[..., t])


def test_slots_are_gathered_and_padding_is_skipped():
    given = drawn(slots=6)
    before = given["conv_state"].clone()
    y = tt.causal_conv1d_update(**given, conv_state_indices=torch.tensor([4, -1, 1]))
    assert not y[1].any()
    untouched = [0, 2, 3, 5]
    assert torch.equal(given["conv_state"][untouched], before[untouched])
    alone = given | {"conv_state": before[[4, 0, 1]]}
    same = tt.causal_conv1d_update(**alone)
    assert torch.equal(y[[0, 2]], same[[0, 2]])
    assert torch.equal(given["conv_state"][[4, 1]], alone["conv_state"][[0, 2]])


def refused(given, match, **more):
    before = given["conv_state"].clone()
    with pytest.raises(ArgumentError, match=match):
        tt.causal_conv1d_update(**given, **more)
    assert torch.equal(given["conv_state"], before), "written although refused"


def test_what_is_refused_has_written_nothing():
    refused(drawn(slots=5), "slot 2 for two rows", conv_state_indices=torch.tensor([2, 1, 2]))
    refused(drawn(slots=5), "given 5", conv_state_indices=torch.tensor([0, 5, 1]))
    refused(drawn(slots=5), "given 5, expected 3")
    refused(drawn(), "cache_seqlens", cache_seqlens=torch.tensor([0, -1, 2]))
    refused(drawn(kept=2), "W at least 3")
    refused(drawn() | {"conv_state": torch.zeros(3, 10, 8)[..., ::2]}, "contiguous")
    refused(drawn() | {"conv_state": torch.zeros(3, 10, 4, dtype=torch.float16)}, "dtype of conv_state")
    refused(drawn() | {"conv_state": torch.zeros(3, 10, 4, requires_grad=True)}, "gradient")
