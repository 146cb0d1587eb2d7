"""The chunked scan beside the chunk form and the mixer of transformers' nemotron_h: an oracle that others wrote."""

from __future__ import annotations

import pytest
import torch

import treadle.torch as tt

hf = pytest.importorskip("transformers.models.nemotron_h.modeling_nemotron_h")

#: transformers clamps the steps of its prefill to at least time_step_min, here 0.001, but not those of its decoding.
PREFILL, DECODE = (1e-3, float("inf")), (0.0, float("inf"))
L, H, P, G, N = 77, 4, 8, 2, 16


def drawn():
    random = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(shape, generator=random)

    return {
        "x": normal(2, L, H, P), "dt": normal(2, L, H), "A": -torch.exp(normal(H)), "B": normal(2, L, G, N),
        "C": normal(2, L, G, N), "D": normal(H), "dt_bias": torch.tensor([-12.0, -6.0, 0.0, 1.0]),
        "initial_states": normal(2, H, P, N),
    }  # fmt: skip


def test_prefill_equals_theirs_where_its_limit_is_given():
    given, options = drawn(), {"chunk_size": 32, "dt_softplus": True, "return_final_states": True}
    theirs = _theirs(given, options)
    ours = tt.mamba_chunk_scan_combined(**given, **options, dt_limit=PREFILL)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).abs().max()) < 1e-5 * float(b.abs().max())


def _theirs(given, options):
    return hf.mamba2_chunk_scan(
        given["x"], given["dt"], given["A"], given["B"], given["C"], D=given["D"], dt_bias=given["dt_bias"],
        initial_states=given["initial_states"], dt_limit=PREFILL, **options,
    )  # fmt: skip


def test_chunks_equal_single_steps_without_a_limit():
    """Our decode step, token by token: biases of -12 make steps that transformers' prefill would clamp."""
    given = drawn()
    y, final = tt.mamba_chunk_scan_combined(**given, chunk_size=32, dt_softplus=True, dt_limit=DECODE, return_final_states=True)
    state = given["initial_states"].clone()

    def wide(t):
        return t[..., None].expand(*t.shape, P)

    for t in range(L):
        step = tt.selective_state_update(
            state, given["x"][:, t], wide(given["dt"][:, t]), given["A"][:, None, None].expand(H, P, N), given["B"][:, t],
            given["C"][:, t], wide(given["D"]), dt_bias=wide(given["dt_bias"]), dt_softplus=True,
        )  # fmt: skip
        assert float((step - y[:, t]).abs().max()) < 1e-5 * float(y.abs().max())
    assert float((state - final).abs().max()) < 1e-5 * float(final.abs().max())
