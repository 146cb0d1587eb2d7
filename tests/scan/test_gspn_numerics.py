"""GSPN where elementwise comparison is too dear or says too little: adjoints at size, unaligned memory, long scans in 16 bits."""

from __future__ import annotations

import pytest
import torch

import treadle.torch as tt
from treadle.ir.oracles.scan import gspn as scan_oracle
from treadle.ir.oracles.scan import gspn_gates as gates_oracle
from treadle.torch.kernels import kernel

#: Chosen with tests/torch, so that both use the same kernels.
DIRECTION = "r2l"


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gates64(logits):
    return gates_oracle.oracle({"direction": DIRECTION}, torch.float64, logits=logits)["gates"]


def scan64(x, lam, gates):
    return scan_oracle.oracle({"direction": DIRECTION, "chunk": 0}, torch.float64, x=x, lam=lam, gates=gates)["h"]


def before(h):
    """For every pixel what its three gates weigh: [N,3,C,H,W] of h [N,C,H,W], walked from right to left."""
    last = torch.nn.functional.pad(h[..., 1:], (0, 1, 1, 1))
    return torch.stack([last[..., k : k + h.shape[-2], :] for k in range(3)], 1)


def dot_test(forward, inputs, moves, gradients=torch.autograd.grad):
    """The largest |<d, J v> - <J^T d, v>| over the arguments, relative to |d| |J v|.

    J v is `moves`, what the forward kernel makes of a step v; d leans towards it, for two large vectors drawn at random are
    all but orthogonal, and a wrong gradient would be lost in the product.
    """
    leaves = [t.detach().requires_grad_() for t in inputs]
    y, worst = forward(*leaves), 0.0
    for i, move in enumerate(moves):
        v = randn(*inputs[i].shape, seed=10 + i)
        along = move(v)
        d = along + along.norm() / along.numel() ** 0.5 * randn(*along.shape, seed=20 + i)
        pulled = gradients(y, leaves, d, retain_graph=True)[i]
        off = (d.double() * along).sum() - (pulled.double() * v).sum()
        worst = max(worst, float(off.abs() / (d.double().norm() * along.double().norm())))
    return worst


#: Some hundred thousand rounding errors of either sign, of which one would be 6e-8, come to less than this.
CLOSE = 1e-6


def scan_at_size(gradients=torch.autograd.grad):
    n, c, h, w = 2, 3, 131, 257
    x, lam = randn(n, c, h, w, seed=1), randn(n, c, h, w, seed=2)
    gates = gates64(2 * randn(n, 3, c, h, w, seed=3)).float()

    def forward(x, lam, gates):
        return tt.gspn_scan(x, lam, gates, DIRECTION)

    weighed = before(forward(x, lam, gates))
    moves = (
        lambda v: forward(v, lam, gates),
        lambda v: forward(x, v, gates),
        # A step of the gates acts as a source where it meets the state.
        lambda v: forward((v * weighed).sum(1), torch.ones_like(lam), gates),
    )
    return dot_test(forward, (x, lam, gates), moves, gradients)


def test_the_adjoint_of_the_scan_is_the_transpose_of_its_jacobian_at_size():
    assert scan_at_size() <= CLOSE


@pytest.mark.parametrize("wrong", ["first step of dx lost", "outer gates exchanged", "dlam half a percent off"])
def test_a_wrong_adjoint_fails_the_dot_test(wrong):
    def gradients(y, leaves, d, **kept):
        dx, dlam, dgates = (t.clone() for t in torch.autograd.grad(y, leaves, d, **kept))
        if wrong.startswith("first"):
            dx[..., -1] = 0
        elif wrong.startswith("outer"):
            dgates = dgates.flip(1)
        else:
            dlam *= 1.005
        return dx, dlam, dgates

    assert scan_at_size(gradients) > 10 * CLOSE


def test_the_adjoint_of_the_operator_is_the_transpose_of_its_jacobian_at_size():
    """Of what y is linear in."""
    n, c, h, w = 2, 2, 97, 131
    x, merge = randn(n, c, h, w), randn(4, seed=1)
    lam, u, d = (randn(n, 4, c, h, w, seed=s) for s in (2, 3, 4))
    logits = 2 * randn(n, 4, 3, 1, h, w, seed=5)

    def forward(x, lam, u, d, merge):
        return tt.gspn2d(x, lam, logits, u, d, merge)

    inputs = x, lam, u, d, merge
    none = torch.zeros_like(d)
    moves = (
        lambda v: forward(v, lam, u, d, merge),
        lambda v: forward(x, v, u, none, merge),
        lambda v: forward(x, lam, v, none, merge),
        lambda v: forward(x, lam, torch.zeros_like(u), v, merge),
        lambda v: forward(x, lam, u, d, v),
    )
    assert dot_test(forward, inputs, moves) <= CLOSE


def unaligned(t):
    """The same values, at an address that is a multiple of an element's size and of no more."""
    room = torch.full((t.numel() + 16,), torch.nan, dtype=t.dtype)
    first = next(i for i in range(16) if (room.data_ptr() // t.itemsize + i) % 2)
    there = room[first : first + t.numel()].view(t.shape)
    assert there.is_contiguous() and there.data_ptr() % (2 * t.itemsize)
    return there.copy_(t)


N, C, H, W = 2, 3, 19, 33
PLANE, DIRECTIONAL, GATES = (N, C, H, W), (N, 4, C, H, W), (N, 3, C, H, W)
#: program -> attributes and the shapes of arguments
UNALIGNED = {
    "scan.gspn_gates": ({"direction": DIRECTION}, [GATES]),
    "scan.gspn_gates_adjoint": ({"direction": DIRECTION}, [GATES] * 2),
    "scan.gspn": ({"direction": DIRECTION, "chunk": 0}, [PLANE, PLANE, GATES]),
    "scan.gspn_adjoint": ({"direction": DIRECTION, "chunk": 0}, [PLANE, PLANE, PLANE, GATES, PLANE]),
    "scan.gspn2d": ({"chunk": 0, "skip": True}, [PLANE, DIRECTIONAL, (N, 4, 3, C, H, W), DIRECTIONAL, DIRECTIONAL, (4,)]),
    "scan.gspn2d_adjoint": (
        {"chunk": 0, "skip": True}, [PLANE, PLANE, DIRECTIONAL, (N, 4, 3, C, H, W), DIRECTIONAL, DIRECTIONAL, (4,)]
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("program", "dtype"),
    [
        *((name, torch.float32) for name in UNALIGNED),
        ("scan.gspn", torch.bfloat16),
        ("scan.gspn_adjoint", torch.bfloat16),
        *(pytest.param(f"scan.gspn2d{a}", torch.bfloat16, marks=pytest.mark.long) for a in ("", "_adjoint")),
    ],
    ids=str,
)
def test_arguments_and_results_may_lie_at_any_element(program, dtype):
    """Aligned loads of vectors would fault, or read beside what they mean; nothing beside a result is written to."""
    attrs, shapes = UNALIGNED[program]
    run = kernel(program, torch.device("cpu"), dtype, **attrs)
    inputs = [randn(*shape, seed=i).to(dtype) / 3 for i, shape in enumerate(shapes)]
    aligned = run(*inputs)
    aligned = aligned if isinstance(aligned, tuple) else (aligned,)
    out = dict(zip(run.results, (unaligned(torch.full_like(t, torch.nan)) for t in aligned), strict=True))
    run(*map(unaligned, inputs), out=out)
    for found, expected in zip(out.values(), aligned, strict=True):
        assert torch.equal(found, expected)
        room = torch.empty(0, dtype=dtype).set_(found.untyped_storage())
        assert room.isnan().sum() == room.numel() - found.numel()


def excess(h, h64, x, lam, gates):
    """The worst error after t steps, over what a float32 state may have by then and one rounding to h's dtype.

    A step adds at most four rounding errors of the sum of magnitudes, and gates that sum to one do not enlarge what is there.
    """
    info, single = torch.finfo(h.dtype), torch.finfo(torch.float32)
    steps = torch.arange(h.shape[-1], 0, -1, dtype=torch.float64)
    carried = 4 * steps * single.eps / 2 * scan64(x.abs(), lam.abs(), gates)
    allowed = carried + info.eps / 2 * (h64.abs() + carried) + info.smallest_normal * info.eps
    return float(((h.double() - h64).abs() / allowed).max())


def long_scan(dtype):
    x, lam = (randn(1, 2, 7, 2049, seed=s).to(dtype) for s in (1, 2))
    gates = gates64(2 * randn(1, 3, 2, 7, 2049, seed=3)).to(dtype)
    return x, lam, gates


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_errors_of_long_scans_grow_no_faster_than_those_of_a_float32_state(dtype):
    inputs = long_scan(dtype)
    h = tt.gspn_scan(*inputs, DIRECTION)
    assert h.dtype == dtype and excess(h, scan64(*inputs), *inputs) <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_state_of_sixteen_bits_is_caught(dtype):
    x, lam, gates = long_scan(dtype)
    h = torch.zeros_like(x)
    for t in reversed(range(x.shape[-1])):
        beside = before(h[..., t : t + 2].double())[..., :1]
        h[..., t] = (lam[..., t].double() * x[..., t] + (gates[..., t : t + 1] * beside).sum(1)[..., 0]).to(dtype)
    assert excess(h, scan64(x, lam, gates), x, lam, gates) > 4
