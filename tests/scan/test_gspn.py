"""What GSPN must satisfy, whatever computes it: held against the oracles in float64 and the kernels in float32.

Each property says what it catches by being broken by a planted mutation; the last test lists which kills which.
"""

from __future__ import annotations

import pytest
import torch

import treadle.torch as tt
from treadle.ir.oracles.scan import gspn as scan_oracle
from treadle.ir.oracles.scan import gspn2d as whole_oracle
from treadle.ir.oracles.scan import gspn_gates as gates_oracle

DIRECTIONS = ("t2b", "b2t", "l2r", "r2l")
#: x -> the same walk as t2b: what turns a map so that a direction runs from top to bottom.
TURN = {
    "t2b": lambda t: t,
    "b2t": lambda t: t.flip(-2),
    "l2r": lambda t: t.transpose(-1, -2),
    "r2l": lambda t: t.flip(-1).transpose(-1, -2),
}
BACK = {**TURN, "r2l": lambda t: t.transpose(-1, -2).flip(-1)}


class Oracle:
    dtype, tolerance = torch.float64, 1e-10

    def gates(self, logits, direction="t2b"):
        return gates_oracle.oracle({"direction": direction}, self.dtype, logits=logits)["gates"]

    def scan(self, x, lam, gates, direction="t2b", chunk=0):
        return scan_oracle.oracle({"direction": direction, "chunk": chunk}, self.dtype, x=x, lam=lam, gates=gates)["h"]

    def whole(self, x, lam, logits, u, merge):
        return whole_oracle.oracle({"chunk": 0}, self.dtype, x=x, lam=lam, logits=logits, u=u, merge=merge)["y"]


class Kernels:
    dtype, tolerance = torch.float32, 2e-5  # 170 units in the last place: sums of some hundred terms

    def gates(self, logits, direction="t2b"):
        return tt.gspn_gates(logits.contiguous(), direction)

    def scan(self, x, lam, gates, direction="t2b", chunk=0):
        return tt.gspn_scan(x, lam, gates, direction, chunk)

    def whole(self, x, lam, logits, u, merge):
        return tt.gspn2d(x, lam, logits, u, None, merge)


SUBJECTS = [Oracle(), Kernels()]
subjects = pytest.mark.parametrize("s", SUBJECTS, ids=["oracle", "kernels"])


def near(s, a, b):
    assert a.shape == b.shape
    error, scale = (a.double() - b.double()).abs().max(), b.abs().max().clamp_min(1)
    assert error <= s.tolerance * scale, float(error / scale)


def draw(s, n=2, c=3, h=6, w=9, g=None, seed=0):
    random = torch.Generator().manual_seed(seed)
    x, lam = (torch.randn(n, c, h, w, generator=random, dtype=torch.float64).to(s.dtype) for _ in range(2))
    return x, lam, (2 * torch.randn(n, 3, g or c, h, w, generator=random, dtype=torch.float64)).to(s.dtype)


def dense(gates):
    """The whole affinity of one plane [3,T,L] as a (T L) x (T L) matrix, by products of tridiagonal ones."""
    _, steps, width = gates.shape
    total = torch.zeros(steps, width, steps, width, dtype=torch.float64)
    for t in range(steps):
        total[t, :, t] = torch.eye(width)
        if t:
            w = torch.diag(gates[1, t]) + torch.diag(gates[0, t, 1:], -1) + torch.diag(gates[2, t, :-1], 1)
            total[t, :, :t] = torch.einsum("ij,jsk->isk", w, total[t - 1, :, :t])
    return total


def dense_equality(s):
    for h, w in ((1, 5), (5, 1), (4, 2), (7, 11)):
        x, lam, logits = draw(s, 1, 1, h, w)
        gates = s.gates(logits)
        affinity = dense(gates[0, :, 0].double())
        near(s, s.scan(x, lam, gates)[0, 0], torch.einsum("tlsk,sk->tl", affinity, (lam * x)[0, 0].double()))
        for t in range(h):  # rows sum to one, nothing negative, and an impulse stays in its light cone
            for before in range(t + 1):
                near(s, affinity[t, :, before].sum(-1), torch.ones(w, dtype=torch.float64))
                far = (torch.arange(w)[:, None] - torch.arange(w)).abs() > t - before
                assert (affinity[t, :, before] >= 0).all() and (affinity[t, :, before][far] == 0).all()


def unit_source(s):
    for d in DIRECTIONS:
        for chunk in (0, 4):
            _, _, logits = draw(s, 1, 2, 9, 11)
            ones = torch.ones(1, 2, 9, 11, dtype=s.dtype)
            expected = _counts(d, chunk, s.dtype)
            near(s, s.scan(ones, ones, s.gates(logits, d), d, chunk), expected.expand(1, 2, 9, 11))


def _counts(d, chunk, dtype):
    """On a 9 x 11 map, how many steps of its chunk a pixel's walk has taken."""
    steps, width = (9, 11) if d in ("t2b", "b2t") else (11, 9)
    walked = torch.arange(steps, dtype=dtype)
    return BACK[d]((walked % (chunk or steps) + 1)[:, None].expand(steps, width))


def bounded(s):
    x, lam, logits = draw(s)
    h, source = s.scan(x, lam, s.gates(logits)), (lam * x).abs().amax(-1)
    assert (h.abs().amax(-1) <= source.cumsum(-1) * (1 + s.tolerance)).all()


def linear(s):
    (x, lam, logits), other = draw(s), draw(s, seed=1)[0]
    gates = s.gates(logits)
    near(s, s.scan(2 * x - 3 * other, lam, gates), 2 * s.scan(x, lam, gates) - 3 * s.scan(other, lam, gates))
    near(s, s.scan(lam, x, gates), s.scan(x, lam, gates))


def shifts(s):
    x, lam, logits = draw(s)
    for k, moved in ((0, lambda a: torch.nn.functional.pad(a, (1, -1))), (2, lambda a: torch.nn.functional.pad(a, (-1, 1)))):
        gates = torch.zeros_like(logits)
        gates[:, k] = 1
        h, source = s.scan(x, lam, gates), lam * x
        near(s, h[:, :, 1:], source[:, :, 1:] + moved(h[:, :, :-1]))
    centre = torch.zeros_like(logits)
    near(s, s.scan(x, lam, centre), lam * x)
    centre[:, 1] = 1
    near(s, s.scan(x, lam, centre), (lam * x).cumsum(-2))


def flips(s):
    x, lam, logits = draw(s)
    gates = s.gates(logits)
    mirrored = s.scan(x.flip(-1), lam.flip(-1), gates.flip(1, -1))
    near(s, mirrored.flip(-1), s.scan(x, lam, gates))
    for d in DIRECTIONS:
        near(s, BACK[d](s.scan(TURN["t2b"](x), lam, gates)), s.scan(BACK[d](x), BACK[d](lam), BACK[d](gates), d))


def chunks(s):
    x, lam, logits = draw(s, h=9)
    gates = s.gates(logits)
    for chunk in (4, 20):
        pieces = [s.scan(*(t[..., at : at + chunk, :] for t in (x, lam, gates))) for at in range(0, 9, chunk)]
        near(s, s.scan(x, lam, gates, "t2b", chunk), torch.cat(pieces, -2))
        turned = [t.flip(-2) for t in (x, lam, gates)]
        near(s, s.scan(*turned, "b2t", chunk).flip(-2), torch.cat(pieces, -2))
    whole, first = s.scan(x, lam, gates), s.scan(x[:, :, :5], lam[:, :, :5], gates[..., :5, :])
    carried = [torch.zeros_like(t[:, :, 5:]) for t in (x, lam)]
    row, beside = first[:, :, 4], torch.nn.functional.pad(first[:, :, 4], (1, 1))
    g = gates[..., 5, :]
    injected = g[:, 0] * beside[..., :-2] + g[:, 1] * row + g[:, 2] * beside[..., 2:]
    carried[0][:, :, 0], carried[1][:, :, 0] = injected, 1
    second = s.scan(x[:, :, 5:], lam[:, :, 5:], gates[..., 5:, :]) + s.scan(*carried, gates[..., 5:, :])
    near(s, second, whole[:, :, 5:])


def channels(s):
    x, lam, logits = draw(s, g=1)
    gates = s.gates(logits)
    near(s, s.scan(x, lam, gates), s.scan(x, lam, gates.expand(-1, -1, 3, -1, -1)))
    changed = x.clone()
    changed[1, 2] += 1
    a, b = s.scan(x, lam, gates), s.scan(changed, lam, gates)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1, :2], b[1, :2]) and not torch.equal(a[1, 2], b[1, 2])
    order = torch.tensor([2, 0, 1])
    assert torch.equal(s.scan(x[:, order], lam[:, order], gates), a[:, order])


def extremes(s):
    x, lam, logits = draw(s)
    for value in (50.0, -50.0):
        gates = s.gates(torch.full_like(logits, value))
        assert torch.isfinite(gates).all() and (gates.sum(1) <= 1 + s.tolerance).all()
    x[0, 0, 2, 4] = torch.nan
    h = s.scan(x, lam, s.gates(logits))
    reached = torch.isnan(h[0, 0])
    t, l = torch.meshgrid(torch.arange(6) - 2, torch.arange(9) - 4, indexing="ij")
    assert torch.equal(reached, l.abs() <= t) and not torch.isnan(h[0, 1:]).any() and not torch.isnan(h[1]).any()


PROPERTIES = (dense_equality, unit_source, bounded, linear, shifts, flips, chunks, channels, extremes)


@subjects
@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda p: p.__name__)
def test_property(s, holds):
    holds(s)


def operator(s, h=5, w=7):
    random = torch.Generator().manual_seed(3)
    shapes = (2, 3, h, w), (2, 4, 3, h, w), (2, 4, 3, 3, h, w), (2, 4, 3, h, w)
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(s.dtype) for shape in shapes]


@subjects
def test_merge_of_gates_that_carry_nothing_is_the_identity(s):
    """Fails where orientation is not restored before the merge."""
    x, lam, logits, _ = operator(s)
    ones = torch.ones_like(lam)
    logits = torch.full_like(logits, -1e4)  # every sum is below its floor: nothing is carried
    near(s, s.whole(x, ones, logits, ones, torch.full((4,), 0.25, dtype=s.dtype)), x)


@subjects
def test_the_operator_is_equivariant_under_the_symmetries_of_the_square(s):
    """Turn the map, exchange the directions and, where lines are mirrored, the outer gates: the result is turned."""
    x, lam, logits, u = operator(s)
    merge = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=s.dtype)
    y = s.whole(x, lam, logits, u, merge)
    for turn, order, mirrored in (
        (lambda t: t.flip(-2), [1, 0, 2, 3], [2, 3]),
        (lambda t: t.flip(-1), [0, 1, 3, 2], [0, 1]),
        (lambda t: t.transpose(-1, -2), [2, 3, 0, 1], []),
    ):
        inputs = [turn(t[:, order]).clone() for t in (lam, logits, u)]
        for d in mirrored:
            inputs[1][:, d] = inputs[1][:, d].flip(1)
        near(s, s.whole(turn(x), *inputs, merge[order]), turn(y))


class Mutant(Oracle):
    def __init__(self, change):
        self.change = change

    def scan(self, x, lam, gates, direction="t2b", chunk=0):
        return self.change(super().scan, x, lam, gates, direction, chunk)


def _unmasked(scan, x, lam, gates, direction, chunk):
    """A neighbour beyond the line is the pixel at the line's other end."""
    x, lam, gates = (TURN[direction](t) for t in (x, lam, gates))
    rows, h = [], torch.zeros_like(x[..., 0, :])
    for t in range(x.shape[-2]):
        beside = [torch.roll(h, 1, -1), h, torch.roll(h, -1, -1)]
        carried = sum((gates[:, k, ..., t, :] + 1e-3) * beside[k] for k in range(3)) if t % (chunk or 1 << 30) else 0
        h = lam[..., t, :] * x[..., t, :] + carried
        rows.append(h)
    return BACK[direction](torch.stack(rows, -2))


def _no_last(scan, *arguments):
    h = scan(*arguments).clone()
    last = {"t2b": (..., -1, slice(None)), "b2t": (..., 0, slice(None)), "l2r": (..., -1), "r2l": (..., 0)}
    h[last[arguments[3]]] = 0
    return h


MUTANTS = {
    "outer gates exchanged": lambda scan, x, lam, gates, *rest: scan(x, lam, gates.flip(1), *rest),
    "border unmasked": _unmasked,
    "chunk leak": lambda scan, x, lam, gates, direction, chunk: scan(x, lam, gates, direction, 0),
    "not flipped back": lambda scan, *a: scan(*a).flip(-2) if a[3] == "b2t" else scan(*a),
    "last step missing": _no_last,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_killed(name):
    killers = []
    for holds in PROPERTIES:
        try:
            holds(Mutant(MUTANTS[name]))
        except AssertionError:
            killers.append(holds.__name__)
    print(f"{name}: killed by {', '.join(killers)}")
    assert killers
