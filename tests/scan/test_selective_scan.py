"""The selective scan: Programs against their oracles, the torch operator, what must not change by a bit, planted mistakes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import treadle.torch as tt
from treadle.check import sweep
from treadle.codegen.lower import lower
from treadle.errors import ArgumentError
from treadle.ir import build
from treadle.ir.oracles.check import compare
from treadle.ir.oracles.scan.selective_scan import recurrence
from treadle.schedules import exp2
from treadle.schedules.cpu.selective_walk import Task
from treadle.schedules.selective_family import NAMES, Family
from treadle.schedules.target import Target

CPU = Target.parse("cpu")


@pytest.mark.parametrize("name", NAMES)
def test_random_cases_equal_the_oracles(name):
    for outcome in sweep([name], "cpu", cases=2, seed=5):
        assert not outcome.mismatches, outcome


@pytest.mark.long
@pytest.mark.parametrize("target", ["cpu", "emulate:sm_90a"])
def test_many_random_cases_equal_the_oracles(target):
    for outcome in sweep(NAMES, target, cases=500 if target == "cpu" else 100):
        assert not outcome.mismatches, outcome


# -- the operator -----------------------------------------------------------------------------------------------------------


def drawn(b=2, g=2, r=5, n=16, length=70, dtype=torch.float32, seed=0):
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=random)

    d = g * r
    given = {
        "u": normal(b, d, length),
        "delta": normal(b, d, length),
        "B": normal(b, g, n, length),
        "C": normal(b, g, n, length),
    }
    given |= {"z": normal(b, d, length)}
    given = {name: t.to(dtype) for name, t in given.items()}
    return given | {"A": -torch.exp(normal(d, n)), "D": normal(d), "delta_bias": normal(d), "initial_state": normal(b, d, n)}


def stated(u, delta, A, B, C, D, z, delta_bias, initial_state):
    """The oracle's recurrence under the operator's shapes; softplus."""
    b, d, length = u.shape
    g, n = B.shape[1:3]
    by_group = lambda t: t.reshape(b, g, -1, *t.shape[2:])  # noqa: E731
    wide = {name: t.reshape(1, g, -1, *t.shape[1:]).expand(b, g, d // g, *t.shape[1:]) for name, t in
            {"A": A, "D": D, "delta_bias": delta_bias}.items()}  # fmt: skip
    B, C = (t[:, :, None].expand(-1, -1, d // g, -1, -1) for t in (B, C))
    y, last = recurrence(
        {"softplus": True}, by_group(u), by_group(delta), B=B, C=C, z=by_group(z), initial=by_group(initial_state), **wide
    )
    return y.reshape(b, d, length), last.reshape(b, d, n)


def ours(**given):
    return tt.selective_scan_fn(**given, delta_softplus=True, return_last_state=True)


def pulled(function, given, grads):
    leaves = {name: t.detach().requires_grad_() for name, t in given.items()}
    ends = function(**leaves)
    return [*ends, *torch.autograd.grad(ends, list(leaves.values()), [g.to(e.dtype) for g, e in zip(grads, ends, strict=True)])]


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.long)])
def test_forward_and_backward_equal_the_recurrence(dtype):
    given = drawn(dtype=dtype)
    random = torch.Generator().manual_seed(1)
    grads = [torch.randn(s, generator=random) for s in (given["u"].shape, given["initial_state"].shape)]
    grads[0] = grads[0].to(dtype)
    before = [g.clone() for g in grads]
    found = pulled(ours, given, grads)
    truth, yardstick = (
        pulled(stated, {name: t.to(kind) for name, t in given.items()}, grads) for kind in (torch.float64, torch.float32)
    )
    for name, y, y64, t32 in zip(("y", "last", *given), found, truth, yardstick, strict=True):
        verdict = compare(y.detach().double(), y64.detach(), t32.detach().double(), torch.finfo(dtype).eps)
        assert verdict.ok, (name, verdict)
    assert all(torch.equal(a, b) for a, b in zip(grads, before, strict=True))


def test_gradients_of_the_recurrence_are_those_of_finite_differences():
    given = {name: t.double().requires_grad_() for name, t in drawn(1, 2, 1, 2, 4).items()}
    assert torch.autograd.gradcheck(lambda *ts: stated(**dict(zip(given, ts, strict=True))), list(given.values()))


def test_torch_accepts_the_operator():
    given = drawn(1, 1, 2, 16, 3)
    wide = {name: given[name].reshape(1, 1, 2, 3).requires_grad_() for name in ("u", "delta", "z")}
    args = [wide["u"], wide["delta"], given["A"].reshape(1, 2, 16), given["B"], given["C"], given["D"].reshape(1, 2), wide["z"],
            given["delta_bias"].reshape(1, 2), given["initial_state"].reshape(1, 1, 2, 16), True]  # fmt: skip
    torch.library.opcheck(torch.ops.treadle.selective_scan.default, args)


def test_mamba_of_transformers():
    """MambaMixer in plain torch, as it is on a CPU: the scan is what stands between its projections."""
    configuration = pytest.importorskip("transformers", reason="the oracle is transformers'").MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    torch.manual_seed(0)
    mixer = MambaMixer(configuration(hidden_size=12, state_size=16, num_hidden_layers=1, use_mambapy=False), 0)
    x = torch.randn(2, 33, 12)
    with torch.no_grad():
        want = mixer(x)
        inner, z = mixer.in_proj(x).transpose(1, 2).chunk(2, 1)
        u = tt.causal_conv1d_fn(inner, mixer.conv1d.weight[:, 0], mixer.conv1d.bias, activation="silu")
        cut = [mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size]
        dt, B, C = mixer.x_proj(u.transpose(1, 2)).split(cut, -1)
        delta = (mixer.dt_proj.weight @ dt.transpose(1, 2)).contiguous()
        y = tt.selective_scan_fn(
            u,
            delta,
            -torch.exp(mixer.A_log.float()),
            B.transpose(1, 2),
            C.transpose(1, 2),
            mixer.D,
            z,
            mixer.dt_proj.bias,
            True,
        )
        assert torch.allclose(mixer.out_proj(y.transpose(1, 2)), want, rtol=1e-4, atol=1e-5)


# -- bits -------------------------------------------------------------------------------------------------------------------


def along(given, start, stop):
    return {name: t[..., start:stop] if name in ("u", "delta", "z", "B", "C") else t for name, t in given.items()}


def test_cut_and_carried_on_equals_the_whole():
    """In tiles of 64 steps nothing depends on where they begin but the order of no sum: to the bit."""
    given = drawn(length=200)
    y, last = ours(**given)
    pieces, now = [], given["initial_state"]
    for start, stop in ((0, 1), (1, 70), (70, 200)):
        piece, now = ours(**along(given, start, stop) | {"initial_state": now})
        pieces.append(piece)
    assert torch.equal(torch.cat(pieces, -1), y) and torch.equal(now, last)


def test_neither_batch_nor_later_steps_change_a_row():
    given = drawn(b=3, length=130)
    y, last = ours(**given)
    per_sequence = ("u", "delta", "z", "B", "C", "initial_state")
    alone, end = ours(**{name: t[1:2] if name in per_sequence else t for name, t in given.items()})
    assert torch.equal(alone, y[1:2]) and torch.equal(end, last[1:2])
    assert torch.equal(ours(**along(given, 0, 77))[0], y[..., :77])


# -- numbers ----------------------------------------------------------------------------------------------------------------


def test_extremes_are_finite_and_right():
    given = drawn(1, 1, 4, 16, 40)
    given["A"][0], given["A"][1] = 0.0, -1e30
    given["delta"][0, 2], given["delta"][0, 3] = 1e4, -1e4
    given["delta_bias"][:2] = -12.0
    y, last = ours(**given)
    y64, last64 = stated(**{name: t.double() for name, t in given.items()})
    assert y.isfinite().all() and last.isfinite().all()
    assert torch.allclose(y.double(), y64, rtol=1e-5, atol=1e-5 * float(y64.abs().max()))
    assert torch.allclose(last.double(), last64, rtol=1e-5, atol=1e-5 * float(last64.abs().max()))


def test_growth_is_refused():
    given = drawn(1, 1, 3, 16, 5)
    given["A"][2, 7] = 1e-3
    with pytest.raises(ArgumentError, match="at most 0"):
        ours(**given)
    with pytest.raises(ArgumentError, match="A"):
        tt.selective_scan_fn(**given, validate=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"B": torch.zeros(10, 16)}, "group for each channel"),
        ({"C": torch.zeros(2, 3, 16, 70)}, "shape of C"),
        ({"A": torch.zeros(10, 300)}, "states of a channel"),
        ({"delta": torch.zeros(2, 10, 69)}, "shape of delta"),
        ({"u": torch.zeros(2, 10, 70, dtype=torch.float64)}, "dtype of u"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ArgumentError, match=message):
        ours(**drawn() | change)


@pytest.mark.parametrize(("degree", "ulps"), [(5, 2.1), (6, 1.0)])
def test_the_polynomial_of_two_to_the_power_keeps_its_error_bound(degree, ulps):
    """Every operation rounded to float32, products fused into sums, as the vector units do."""
    f32 = np.float32
    r = np.linspace(-0.5, 0.5, 1 << 20).astype(f32)
    near = np.full_like(r, exp2.POLYNOMIALS[degree][-1])
    for c in (*exp2.POLYNOMIALS[degree][-2::-1], 1.0):
        near = (near.astype(np.float64) * r + f32(c)).astype(f32)
    truth = 2.0 ** r.astype(np.float64)
    spacing = np.spacing(np.minimum(truth, near).astype(f32)).astype(np.float64)
    assert np.abs(near - truth).max() > 0 and (np.abs(near - truth) / spacing).max() <= ulps
    assert near[r == 0].size == 0 or (near[r == 0] == 1).all()


# -- planted mistakes -------------------------------------------------------------------------------------------------------


def test_mistakes_in_the_schedule_are_caught(monkeypatch, mismatched):
    program = build(NAMES[0], "float32", {"state": 3}, {"S": 2, "G": 3, "R": 11, "L": 37})
    assert not mismatched(program, lower(program, CPU).func)
    enter, load = Task._enter, Task._load

    def wrong_group(self, tile, names):
        g, self.g = self.g, self.g * 0
        enter(self, tile, names)
        self.g = g

    def without(name):
        def loads(self, *at):
            inner = load(self, *at)
            return lambda t, index: inner(t, index) * 0 if t.op.name == name else inner(t, index)

        return loads

    def short(self, tile, names):
        enter(self, tile, names)
        self.length = self.length - 1

    plants = {"_enter": [wrong_group, short], "_load": [without("D"), without("delta_bias")]}
    for name, wrongs in plants.items():
        for wrong in wrongs:
            with monkeypatch.context() as patch:
                patch.setattr(Task, name, wrong)
                assert mismatched(program, lower(program, CPU).func), wrong


def test_an_adjoint_that_forgets_what_is_carried_is_caught(mismatched):
    program = build(NAMES[1], "float32", {"state": 3}, {"S": 2, "G": 3, "R": 11, "L": 37})
    assert not mismatched(program, lower(program, CPU).func)
    again, back = program.sweep.scans
    wrong = replace(back, source=again.source)
    assert Family.of(program).back is not None
    planted = replace(program, sweep=replace(program.sweep, scans=(again, wrong)))
    assert mismatched(program, lower(planted, CPU).func)
