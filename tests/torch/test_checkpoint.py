"""gspn2d's backward pass with few states kept: the gradients of all states kept, every time."""

from __future__ import annotations

import pytest
import torch

import treadle.torch as tt
from treadle.errors import ArgumentError


def drawn(n, c, g, h, w):
    random = torch.Generator().manual_seed(0)
    shapes = ((n, c, h, w), (n, 4, c, h, w), (n, 4, 3, g, h, w), (n, 4, c, h, w))
    return [torch.randn(s, generator=random, requires_grad=True) for s in shapes]


def gradients(inputs, checkpoint):
    y = tt.gspn2d(*inputs, checkpoint=checkpoint)
    return torch.autograd.grad(y, inputs, torch.ones_like(y).cumsum(-1) / y.shape[-1])


@pytest.mark.long  # two kernels of ten seconds each
@pytest.mark.parametrize("sizes", [(1, 2, 2, 67, 33), (2, 3, 1, 32, 97), (1, 1, 1, 1, 5)], ids=str)
def test_gradients_are_bitwise_those_of_all_states_kept_a_hundred_times(sizes):
    inputs = drawn(*sizes)
    kept = gradients(inputs, 0)
    for _ in range(100):
        assert all(torch.equal(a, b) for a, b in zip(kept, gradients(inputs, 32), strict=True))


@pytest.mark.long
def test_opcheck():
    registered = torch.ops.treadle.gspn2d.default
    arguments = (*drawn(1, 2, 2, 9, 5), None, None, 0, 32)
    assert set(torch.library.opcheck(registered, arguments).values()) == {"SUCCESS"}


@pytest.mark.parametrize("checkpoint", [7, -1, 128])
def test_what_no_schedule_keeps_is_refused(checkpoint):
    with pytest.raises(ArgumentError, match="checkpoint") as caught:
        tt.gspn2d(*drawn(1, 2, 2, 3, 4), checkpoint=checkpoint)
    assert "32" in caught.value.expected
