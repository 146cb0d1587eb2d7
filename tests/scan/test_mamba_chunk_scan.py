"""The chunked scan of Mamba-2: against the recurrence, packed and apart, cut and carried on, mistakes planted in it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import tvm_ffi
from tvm import tirx

import treadle
import treadle.torch as tt
from treadle.cases import draw_inputs, generator
from treadle.check import sweep
from treadle.codegen.lower import lower
from treadle.errors import ArgumentError, TreadleError
from treadle.ir import build
from treadle.ir.oracles.check import compare
from treadle.ir.oracles.scan.mamba_chunk_scan import recurrence
from treadle.schedules.cpu import ssd
from treadle.schedules.target import Target

NAMES = ("scan.mamba_chunk_scan", "scan.mamba_chunk_scan_adjoint")
CPU = Target.parse("cpu")
#: One set of attributes for most tests: their kernels are compiled once.
SOFT = {"dt_softplus": True}


def drawn(length, heads=4, p=8, groups=2, n=16, batch=1, seed=0):
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=random)

    return {
        "x": normal(batch, length, heads, p), "dt": normal(batch, length, heads) - 1, "A": -torch.exp(normal(heads)),
        "B": normal(batch, length, groups, n), "C": normal(batch, length, groups, n), "D": normal(heads, p),
        "dt_bias": normal(heads), "initial_states": normal(batch, heads, p, n),
    }  # fmt: skip


def scan(given, chunk=16, **options):
    return tt.mamba_chunk_scan_combined(**given, chunk_size=chunk, return_final_states=True, **{**SOFT, **options})


def plain(x, dt, A, B, C, D, dt_bias, initial_states, z=None, softplus=True, limit=(0.0, float("inf"))):
    """The same by the oracle's recurrence, row by row, every sequence of one length."""
    batch, length, heads, _ = x.shape
    ends = torch.arange(batch + 1) * length

    def tokens(t):
        return t.reshape(batch * length, heads, 1, *t.shape[3:])

    def all_tokens(t):
        return t[:, None].expand(batch * length, *t[:, None].shape)

    def heads_of(t):
        return tokens(t.repeat_interleave(heads // t.shape[2], 2))

    y, final = recurrence(
        {"softplus": softplus, "dt_min": limit[0], "dt_max": limit[1]}, torch.arange(batch + 1), ends, tokens(x), tokens(dt),
        all_tokens(A), heads_of(B), heads_of(C), all_tokens(dt_bias), initial_states[:, :, None], all_tokens(D),
        None if z is None else tokens(z),
    )  # fmt: skip
    return y.reshape(x.shape), final[:, :, 0]


def rows(given, start, stop):
    return {n: t[:, start:stop] if n in ("x", "dt", "B", "C", "z") else t for n, t in given.items()}


def held(found, given, **options):
    truth, yardstick = (plain(**{n: t.to(k) for n, t in given.items()}, **options) for k in (torch.float64, torch.float32))
    for y, y64, t32 in zip(found, truth, yardstick, strict=True):
        verdict = compare(y.double(), y64, t32.double(), torch.finfo(torch.float32).eps)
        assert verdict.ok, verdict


@pytest.mark.parametrize("name", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.long)])
def test_random_cases_equal_the_recurrence(name):
    for outcome in sweep([name], "cpu", cases=3, seed=3):
        assert not outcome.mismatches, outcome


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_many_random_cases_equal_the_recurrence(name):
    for outcome in sweep([name], "cpu", cases=500 if name == NAMES[0] else 150):
        assert not outcome.mismatches, outcome


@pytest.mark.parametrize(
    ("heads", "p", "groups", "n", "length"),
    [(3, 5, 1, 16, 37), (2, 8, 2, 64, 130), (6, 32, 3, 96, 50), (5, 64, 1, 128, 33), (1, 128, 1, 16, 16)],
)
def test_chunks_equal_the_recurrence_at_any_shape(heads, p, groups, n, length):
    given = drawn(length, heads, p, groups, n, batch=2)
    held(scan(given), given)


def test_the_size_of_chunks_does_not_matter():
    given = drawn(200)
    small, large = (scan(given, chunk) for chunk in (16, 32))
    held(small, given)
    held(large, given)
    for a, b in zip(small, large, strict=True):
        assert float((a - b).abs().max()) < 1e-5 * float(b.abs().max())


def test_cut_and_carried_on_equals_the_whole():
    """Cut where a chunk ends the bits are the same, elsewhere the chunks are others."""
    given = drawn(100)
    whole = scan(given)
    for cut, same in ((32, True), (41, False)):
        first, state = scan(rows(given, 0, cut))
        second, last = scan(rows(given, cut, 100) | {"initial_states": state})
        y = torch.cat([first, second], 1)
        held((y, last), given)
        assert torch.equal(y, whole[0]) == same


LENGTHS = (40, 0, 1, 16, 17, 0, 63, 5)


def test_packed_equals_apart_to_the_bit():
    given = drawn(sum(LENGTHS))
    ends = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]
    states = torch.randn(len(LENGTHS), 4, 8, 16, generator=torch.Generator().manual_seed(1))
    y, final, varlen = scan(
        given | {"initial_states": states}, cu_seqlens=torch.tensor(ends, dtype=torch.int32), return_varlen_states=True
    )
    assert torch.equal(final, varlen)
    for s, (start, stop) in enumerate(pairwise(ends)):
        alone, last = scan(rows(given, start, stop) | {"initial_states": states[s : s + 1]})
        assert torch.equal(alone, y[:, start:stop]) and torch.equal(last[0], final[s])
    held((y[:, :40], final[:1]), rows(given, 0, 40) | {"initial_states": states[:1]})


def test_seq_idx_cuts_a_row_as_cu_seqlens_does():
    given = drawn(60, batch=2)
    ids = torch.tensor([[0] * 20 + [1] * 40, [3] * 7 + [2] * 50 + [3] * 3], dtype=torch.int32)
    y, final = scan(given, seq_idx=ids)
    zero = torch.zeros(1, 4, 8, 16)
    for b, cuts in ((0, (0, 20, 60)), (1, (0, 7, 57, 60))):
        row = {n: t[b : b + 1] if t.shape[0] == 2 else t for n, t in given.items()}
        for start, stop in pairwise(cuts):
            state = row["initial_states"] if start == 0 else zero
            alone, last = scan(rows(row, start, stop) | {"initial_states": state})
            assert torch.equal(alone[0], y[b, start:stop])
        assert torch.equal(last[0], final[b])


def test_later_tokens_and_other_rows_leave_earlier_ones_alone():
    given = drawn(90, batch=3)
    whole, _ = scan(given)
    for length in (1, 16, 37, 64):
        assert torch.equal(scan(rows(given, 0, length))[0], whole[:, :length])
    alone = {n: t[1:2] if t.shape[0] == 3 else t for n, t in given.items()}
    assert torch.equal(scan(alone)[0], whole[1:2])


def test_extremes_stay_finite_and_right():
    """Steps of 0, biases of -12, decays from 1 to nothing within a chunk."""
    given = drawn(70)
    given["dt"][:, ::3] = 0.0
    given["dt_bias"][0] = -12.0
    given["A"] = torch.tensor([-1e30, -3e38, 0.0, -700.0])
    y, final = scan(given)
    assert torch.isfinite(y).all() and torch.isfinite(final).all()
    held((y, final), given)


def test_gradients_of_every_operand():
    """In float64 by the recurrence, of the result and of the final states."""
    given = drawn(50, heads=3, p=5, groups=1, n=6, batch=2) | {
        "z": torch.randn(2, 50, 3, 5, generator=torch.Generator().manual_seed(2))
    }
    weights = [torch.randn(s, generator=torch.Generator().manual_seed(7)) for s in ((2, 50, 3, 5), (2, 3, 5, 6))]

    def pulled(function, kind):
        leaves = {n: t.to(kind).requires_grad_() for n, t in given.items()}
        loss = sum((r * w.to(kind)).sum() for r, w in zip(function(leaves), weights, strict=True))
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    found = pulled(lambda leaves: scan(leaves), torch.float32)
    truth, yardstick = (pulled(lambda leaves: plain(**leaves), kind) for kind in (torch.float64, torch.float32))
    for name, gradient in found.items():
        verdict = compare(gradient.double(), truth[name], yardstick[name].double(), torch.finfo(torch.float32).eps)
        assert verdict.ok, (name, verdict)


def test_gradients_of_packed_sequences_are_those_of_each():
    given = drawn(sum(LENGTHS))
    ends = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]
    states = torch.randn(len(LENGTHS), 4, 8, 16, generator=torch.Generator().manual_seed(1))

    def pulled(leaves, states, **options):
        leaves = {n: t.detach().requires_grad_() for n, t in (leaves | {"initial_states": states}).items()}
        y, final = scan(leaves, **options)
        got = torch.autograd.grad(
            y.sin().sum() + final.cos().sum(), [leaves[n] for n in ("x", "dt", "B", "C", "initial_states")]
        )
        return got

    *packed, dstates = pulled(given, states, cu_seqlens=torch.tensor(ends))
    for s, (start, stop) in enumerate(pairwise(ends)):
        *alone, dstate = pulled(rows(given, start, stop), states[s : s + 1])
        assert torch.equal(dstate[0], dstates[s])
        for a, b in zip(alone, packed, strict=True):
            assert torch.equal(a, b[:, start:stop])


BOUND = {"T": 70, "S": 3, "G": 2, "R": 2, "P": 5, "N": 7}


def planted(name, swap):
    program = build(name, "float32", {"chunk": 16}, BOUND)
    func = lower(program, CPU).func
    return program, func, tvm_ffi.structural_map(func, swap)


def test_a_mask_that_lets_the_diagonal_go_is_caught(mismatched):
    def strict(e):
        return tirx.LT(e.a, e.b) if str(e.a.ty.dtype) == "int64" and isinstance(e.b, tirx.Var) else e

    program, right, wrong = planted(NAMES[0], (tirx.LE, strict))
    assert not mismatched(program, right)
    assert mismatched(program, wrong)


def test_a_dropped_tail_of_columns_is_caught(mismatched, monkeypatch):
    program = build(NAMES[0], "float32", {"chunk": 32}, BOUND)
    monkeypatch.setattr(ssd.Walk, "below", lambda self, i: tirx.const(1, "int64"))
    assert mismatched(program, lower(program, CPU).func)


@pytest.mark.parametrize("name", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.long)])
def test_states_that_are_not_carried_are_caught(name, mismatched, monkeypatch):
    program = build(name, "float32", {"chunk": 16}, BOUND)
    monkeypatch.setattr(ssd.Walk, "_seq", lambda self, where: tirx.const(0, "int32"))
    assert mismatched(program, lower(program, CPU).func)


@pytest.mark.parametrize(
    "wrong",
    [
        {"chunk": 24},
        {"chunk": 0},
        {"chunk": 1024},
        {"cu_seqlens": torch.tensor([0, 20, 10, 30])},
        {"cu_seqlens": torch.tensor([0, 20])},
        {"cu_seqlens": torch.tensor([1, 30])},
        {"seq_idx": torch.zeros(1, 31, dtype=torch.int32)},
        {"seq_idx": torch.zeros(1, 30)},
        {"dt_limit": (-1.0, 1.0)},
        {"dt_limit": (2.0, 1.0)},
        {"return_varlen_states": True},
    ],
)
def test_mistakes_are_refused_by_type(wrong):
    with pytest.raises(ArgumentError) as refused:
        scan(drawn(30), **wrong)
    assert isinstance(refused.value, TreadleError)


def test_what_grows_is_refused():
    with pytest.raises(ArgumentError):
        scan(drawn(30) | {"A": torch.tensor([-1.0, 0.5, -1.0, -1.0])})


def test_the_kernel_itself_refuses_what_grows():
    program = build(NAMES[0], "float32", {"chunk": 32})
    sizes = {"T": 40, "S": 1, "G": 1, "R": 2, "P": 4, "N": 8}
    given = draw_inputs(program, sizes, generator(0, "grows"))
    kernel = treadle.compile(NAMES[0], "cpu", attrs={"chunk": 32})
    assert torch.isfinite(kernel(**given)[0]).all()
    with pytest.raises(ArgumentError, match="A is at most 0"):
        kernel(**given | {"A": torch.tensor([[-1.0, 0.5]])})


def test_no_tokens_give_the_initial_states():
    given = drawn(0)
    y, final = scan(given)
    assert y.shape == given["x"].shape and torch.equal(final, given["initial_states"])
