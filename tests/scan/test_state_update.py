"""selective_state_update: against its oracle, token by token, in slots, rounded by chance, and what is refused untouched."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch
import tvm_ffi
from tvm import tirx

import treadle
import treadle.torch as tt
from treadle.batch import compile_many
from treadle.check import sweep
from treadle.codegen.lower import lower
from treadle.errors import ArgumentError
from treadle.ir import build
from treadle.ir import dims as dm
from treadle.ir.ops.scan import ssm
from treadle.ir.oracles.check import compare
from treadle.ir.oracles.scan.selective_state_update import bits_of, oracle, stochastic
from treadle.schedules.state_family import Step
from treadle.schedules.target import Target

PROGRAM = "scan.selective_state_update"


def drawn(batch=3, tokens=None, h=4, p=8, n=16, g=2, slots=None, state=torch.float32, dtype=torch.float32, seed=0):
    """Operands of the operator, Mamba-2's: one decay to a head."""
    r = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=r)

    lead = (batch,) if tokens is None else (batch, tokens)
    A = -normal(h).exp()
    return {
        "state": normal(slots or batch, h, p, n).to(state),
        "x": normal(*lead, h, p).to(dtype),
        "dt": normal(*lead, h)[..., None].expand(*lead, h, p),
        "A": A[:, None, None].expand(h, p, n),
        "B": normal(*lead, g, n).to(dtype),
        "C": normal(*lead, g, n).to(dtype),
        "D": normal(h)[:, None].expand(h, p),
        "dt_bias": normal(h)[:, None].expand(h, p),
        "dt_softplus": True,
    }


def reference(state, x, dt, A, B, C, D, dt_bias, dt_softplus, z=None, dtype=torch.float64, limit=(0.0, torch.inf)):
    """One token, by plain torch: state and y."""
    h = state.shape[1]
    state, x, dt, A, D, bias = (t.to(dtype) for t in (state, x, dt, A, D, dt_bias))
    B, C = (t.to(dtype).repeat_interleave(h // t.shape[1], 1) for t in (B, C))
    step = torch.nn.functional.softplus(dt + bias, threshold=1e9) if dt_softplus else dt + bias
    step = step.clamp(*limit)
    state = torch.exp(step[..., None] * A) * state + (step * x)[..., None] * B[:, :, None]
    y = (state * C[:, :, None]).sum(-1) + D * x
    return state, y if z is None else y * torch.nn.functional.silu(z.to(dtype))


def one_by_one(given, tokens, **more):
    """The same tokens in calls of one: the last state is left in `given`."""
    steps = []
    for t in range(tokens):
        now = {k: v[:, t] if k in ("x", "dt", "B", "C", "z") else v for k, v in given.items()}
        extra = {"rounding": (more["rounding"][0], more["rounding"][1] + t)} if more else {}
        steps.append((tt.selective_state_update(**now, **extra), given["state"].clone()))
    return torch.stack([y for y, _ in steps], 1), torch.stack([s for _, s in steps], 1)


def test_random_cases_equal_the_oracle():
    (found,) = sweep([PROGRAM], "cpu", cases=12)
    assert not found.mismatches


@pytest.mark.long
def test_many_random_cases_equal_the_oracle():
    for seed in range(1, 4):
        (found,) = sweep([PROGRAM], "cpu", cases=200, seed=seed)
        assert not found.mismatches


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_equals_plain_torch(tied):
    given = drawn()
    if not tied:
        given = {k: v.contiguous() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        given["A"] = given["A"] * (1 + torch.arange(16) / 16)
    (s64, y64), (s32, y32) = (reference(**given, dtype=k) for k in (torch.float64, torch.float32))
    y = tt.selective_state_update(**given)
    assert compare(y, y64, y32, 2.0**-23).ok and compare(given["state"], s64, s32, 2.0**-23).ok


def test_without_heads_it_is_a_head_alone():
    given = drawn(h=1, g=1)
    flat = {k: v[:, 0] if k in ("state", "x", "dt", "B", "C") else v[0] if k != "dt_softplus" else v for k, v in given.items()}
    flat["state"] = flat["state"].clone()
    assert torch.equal(tt.selective_state_update(**given)[:, 0], tt.selective_state_update(**flat))
    assert torch.equal(given["state"][:, 0], flat["state"])


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16_stochastic"])
def test_tokens_at_once_are_tokens_one_by_one(kind):
    """Bit by bit, whatever the state is kept in, and the states returned are those to roll back to."""
    dtype = getattr(torch, kind.removesuffix("_stochastic"))
    given = drawn(tokens=4, state=dtype)
    apart = given | {"state": given["state"].clone()}
    more = {"rounding": (torch.tensor([7]), torch.tensor([2**40]))} if "stochastic" in kind else {}
    y, states = tt.selective_state_update(**given, **more, return_states=True)
    ys, each = one_by_one(apart, 4, **more)
    assert torch.equal(y, ys) and torch.equal(states, each)
    assert torch.equal(given["state"], apart["state"]) and torch.equal(states[:, -1], given["state"])


def test_slots_are_gathered_padding_is_skipped_and_a_row_depends_on_no_other():
    given = drawn(batch=4, slots=7)
    before = given["state"].clone()
    slots = torch.tensor([5, -1, 0, 3])
    y = tt.selective_state_update(**given, state_batch_indices=slots)
    assert not y[1].any()
    untouched = [1, 2, 4, 6]
    assert torch.equal(given["state"][untouched].view(torch.int32), before[untouched].view(torch.int32))
    for row in (0, 2, 3):
        one = {k: v[row : row + 1] if k in ("x", "dt", "B", "C") else v for k, v in given.items()}
        one["state"] = before.clone()
        assert torch.equal(tt.selective_state_update(**one, state_batch_indices=slots[row : row + 1])[0], y[row])
        assert torch.equal(one["state"][slots[row]], given["state"][slots[row]])


def test_the_slot_of_padding_may_be_another():
    given, same = drawn(slots=4), drawn(slots=4)
    y = tt.selective_state_update(**given, state_batch_indices=torch.tensor([1, 0, 2]), pad_slot_id=0)
    assert torch.equal(y, tt.selective_state_update(**same, state_batch_indices=torch.tensor([1, -1, 2])))
    assert torch.equal(given["state"], same["state"])


def test_stochastic_rounding_follows_its_rule_and_has_no_bias():
    given = drawn(batch=1, h=1, g=1, p=1, n=8, state=torch.float16)
    given |= {"dt": torch.zeros(1, 1, 1), "dt_softplus": False, "dt_bias": torch.ones(1, 1)}
    given["A"], given["x"], given["B"] = torch.zeros(1, 1, 8), torch.ones(1, 1, 1), torch.rand(1, 1, 8) * 3e-3
    before = given["state"].clone()
    exact = before[0, 0, 0].float() + given["B"][0, 0]
    total, trials = torch.zeros(8, dtype=torch.float64), 4000
    for offset in range(trials):
        given["state"].copy_(before)
        tt.selective_state_update(**given, rounding=(torch.tensor([3]), torch.tensor([offset])))
        if offset < 50:
            bits = torch.from_numpy(bits_of(0, 8, offset, 3))
            assert torch.equal(given["state"][0, 0, 0], stochastic(exact, bits))
        total += given["state"][0, 0, 0].double()
    spacing = torch.exp2(torch.floor(torch.log2(exact.double().abs())) - 10)
    assert ((total / trials - exact.double()).abs() < 4 * 0.5 * spacing / trials**0.5 + spacing / 8192).all()
    nearest = exact.half().double()
    assert ((nearest - exact.double()).abs() > 0.1 * spacing).any(), "nothing to round"


def test_philox_gives_the_words_of_its_authors():
    """The known answers published with the generator, for counter and key of zeros and of ones."""
    words = bits_of(0, 8, 0, 0)
    assert [int(words[2 * i]) | int(words[2 * i + 1]) << 16 for i in range(4)] == [
        0x6627E8D5,
        0xE169C58D,
        0xBC57AC4C,
        0x9B00DBD8,
    ]


def refused(given, match, **more):
    before = given["state"].clone()
    with pytest.raises(ArgumentError, match=match):
        tt.selective_state_update(**given, **more)
    assert torch.equal(given["state"], before), "written although refused"


def test_what_is_refused_has_written_nothing():
    refused(drawn(slots=5), "slot 2 for two rows", state_batch_indices=torch.tensor([2, 1, 2]))
    refused(drawn(slots=5), "given 5", state_batch_indices=torch.tensor([0, 5, 1]))
    refused(drawn(slots=5), "given -3", state_batch_indices=torch.tensor([0, -3, 1]))
    refused(drawn(slots=5), "given 5")
    positive = drawn()
    refused(positive | {"A": positive["A"].neg()}, "A: given")
    refused(drawn() | {"state": torch.zeros(3, 4, 8, 16, dtype=torch.float64)}, "dtype of state")
    refused(drawn() | {"state": torch.zeros(3, 4, 16, 8).transpose(2, 3)}, "contiguous")
    refused(drawn() | {"B": torch.zeros(3, 3, 16), "C": torch.zeros(3, 3, 16)}, "divisor of the 4 heads")
    refused(drawn() | {"state": torch.zeros(3, 4, 8, 16, requires_grad=True)}, "gradient")
    refused(drawn(), "float16", rounding=(torch.tensor([1]), torch.tensor([1])))


def test_a_kernel_updates_numpy_arrays_in_place_and_refuses_read_only_ones():
    k = treadle.compile(PROGRAM)
    assert k.updates == ("state",)
    given = [np.zeros((1, 1, 1, 2, 3), np.float32), np.ones((1, 1, 1, 1, 2), np.float32), np.zeros((1, 1, 1, 1), np.float32)]
    given += [-np.ones((1, 1), np.float32), *(np.ones((1, 1, 1, 3), np.float32) for _ in "BC")]
    given += [np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)]
    y = k(*given)
    assert np.allclose(given[0], np.log(2)) and np.allclose(y, 3 * np.log(2))
    shared = np.ones(6, np.float32)
    with pytest.raises(ArgumentError, match="shares memory"):
        k(shared.reshape(given[0].shape), shared[:2].reshape(given[1].shape), *given[2:])
    given[0].flags.writeable = False
    with pytest.raises(ArgumentError, match="read-only"):
        k(*given)
    given[3][:] = 1
    with pytest.raises(ArgumentError, match="A is at most 0"):
        k(given[0].copy(), *given[1:])


def test_compiled_graphs_know_that_the_state_changes():
    given = drawn()
    same = given | {"state": given["state"].clone()}

    def twice(state, x, dt, A, B, C, D, dt_bias):
        a = tt.selective_state_update(state, x, dt, A, B, C, D, dt_bias=dt_bias, dt_softplus=True)
        return a + tt.selective_state_update(state, x, dt, A, B, C, D, dt_bias=dt_bias, dt_softplus=True)

    names = ("state", "x", "dt", "A", "B", "C", "D", "dt_bias")
    eager = twice(*(given[n] for n in names))
    compiled = torch.compile(twice, backend="eager", fullgraph=True)(*(same[n] for n in names))
    assert torch.equal(eager, compiled) and torch.equal(given["state"], same["state"])


def test_the_oracle_takes_tokens_one_by_one():
    """The oracle against the plain statement above, which shares nothing with it."""
    given = drawn(batch=2)
    state, y = reference(**given)
    b, h, p = given["x"].shape
    shaped = {"state": given["state"].view(b, 2, 2, p, -1), "x": given["x"].view(b, 1, 2, 2, p)}
    shaped |= {"dt": given["dt"][..., 0].reshape(b, 1, 2, 2), "A": given["A"][:, 0, 0].reshape(2, 2)}
    shaped |= {n: given[n][:, None] for n in "BC"}
    shaped |= {n: given[n][:, 0].reshape(2, 2) for n in ("D", "dt_bias")}
    attrs = {
        "tied": True,
        "softplus": True,
        "gate": False,
        "slots": False,
        "dt_min": 0.0,
        "dt_max": torch.inf,
        "state": "float32",
    }
    found = oracle(attrs | {"history": False}, torch.float64, **shaped)
    assert torch.allclose(found["y"].view(b, h, p), y, rtol=1e-12, atol=0)
    assert torch.allclose(found["state"].view(b, h, p, -1), state, rtol=1e-12, atol=0)


@pytest.mark.long
@pytest.mark.parametrize("target", ["cpu", "emulate:sm_90a"])
@pytest.mark.parametrize("planted", ["decay", "source", "slot", "group"])
def test_planted_mistakes_are_found(monkeypatch, planted, target):
    if planted == "decay":
        monkeypatch.setattr(ssm, "decay", lambda delta, a: tirx.exp(delta * a * tirx.const(0.99, "float32")))
    elif planted == "source":
        monkeypatch.setattr(ssm, "source", lambda delta, x, b: x * b)
    elif planted == "slot":  # the next sequence's
        monkeypatch.setattr(Step, "slot", lambda self, i, buffers: tirx.truncmod(i + 1, self.slots))
    else:
        monkeypatch.setattr(
            Step, "term", lambda self, at, m, load, term=Step.term: term(self, (*at[:2], at[2] * 0, *at[3:]), m, load)
        )
    (found,) = sweep([PROGRAM], target, cases=8)
    assert found.mismatches


@pytest.mark.long
@pytest.mark.parametrize("target", ["emulate:sm_90a", "ptx:sm_90a"])
def test_on_a_gpu_a_slot_out_of_range_is_skipped_and_never_written(target):
    goal = Target.parse(target)
    program = build(PROGRAM, attrs={"slots": True, "history": True}, dims={"P": 8, "N": 16})
    kernel = lower(program, goal)
    r = torch.Generator().manual_seed(0)
    sizes = {"S": 4, "T": 2, "G": 1, "R": 2, "P": 8, "N": 16, "K": 3}
    given = {
        t.op.name: torch.randn([dm.evaluate(s, sizes) for s in t.shape], generator=r).to(getattr(torch, str(t.dtype)))
        for t in program.args
    }
    given["A"], given["slots"] = -given["A"].exp(), torch.tensor([7, 1, -2, 2**31 - 1]).int()
    before = given["state"].clone()
    results = [
        torch.full([dm.evaluate(s, sizes) for s in t.shape], torch.nan, dtype=getattr(torch, str(t.dtype)))
        for t in program.results
    ]
    with ExitStack() as keep:
        function = compile_many([kernel], goal, keep, lambda _: None)[id(kernel)]
        function(*(tvm_ffi.from_dlpack(t) for t in (*given.values(), *results)))
    y, states = results
    assert torch.equal(given["state"][[0, 2]], before[[0, 2]]) and not torch.equal(given["state"][1], before[1])
    assert not y[[0, 2, 3]].any() and not states[[0, 2, 3]].any() and torch.equal(states[1, -1], given["state"][1])
