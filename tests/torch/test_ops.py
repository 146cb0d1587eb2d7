"""The torch operators: registered as torch asks, right on any input or refused by type, and the same every time."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial

import pytest
import torch

import treadle.torch as tt
from treadle.errors import ArgumentError, TreadleError, UnknownNameError
from treadle.ir.oracles.check import compare
from treadle.ir.oracles.scan import gspn as scan_oracle
from treadle.ir.oracles.scan import gspn2d as whole_oracle
from treadle.ir.oracles.scan import gspn_gates as gates_oracle

#: Every operator in float32, some in the others: each pair of a dtype and attributes is a kernel of its own, and two seconds.
HALVES = [("gates r2l", torch.float16), ("scan in chunks", torch.bfloat16)]
LONG = [pytest.param("gspn2d", t, marks=pytest.mark.long) for t in (torch.float16, torch.bfloat16)]


def gates64(dtype, logits, direction):
    return gates_oracle.oracle({"direction": direction}, dtype, logits=logits)["gates"]


def scan64(dtype, x, lam, gates, direction, chunk):
    return scan_oracle.oracle({"direction": direction, "chunk": chunk}, dtype, x=x, lam=lam, gates=gates)["h"]


def whole64(dtype, x, lam, logits, u, d, merge, chunk):
    """gspn2d, its defaults written out."""
    merge = torch.full((4,), 0.25, dtype=dtype) if merge is None else merge
    skip = {} if d is None else {"d": d}
    return whole_oracle.oracle({"chunk": chunk}, dtype, x=x, lam=lam, logits=logits, u=u, merge=merge, **skip)["y"]


def gates_inputs(n, c, g, h, w, random):
    return (torch.randn(n, 3, g, h, w, generator=random) * 3,)


def scan_inputs(n, c, g, h, w, random):
    x, lam = (torch.randn(n, c, h, w, generator=random) for _ in range(2))
    return x, lam, torch.rand(n, 3, g, h, w, generator=random) / 3


def whole_inputs(n, c, g, h, w, random):
    lam, u = (torch.randn(n, 4, c, h, w, generator=random) for _ in range(2))
    return torch.randn(n, c, h, w, generator=random), lam, 3 * torch.randn(n, 4, 3, g, h, w, generator=random), u


def skipped_inputs(n, c, g, h, w, random):
    d = torch.randn(n, 4, c, h, w, generator=random)
    return *whole_inputs(n, c, g, h, w, random), d, torch.randn(4, generator=random)


#: name -> (operator, oracle(dtype, *inputs, *options), inputs(n, c, g, h, w, generator), options)
OPS = {
    **{f"gates {d}": (tt.gspn_gates, gates64, gates_inputs, (d,)) for d in ("t2b", "r2l")},
    **{f"scan {d}": (tt.gspn_scan, scan64, scan_inputs, (d, 0)) for d in ("t2b", "r2l")},
    "scan in chunks": (tt.gspn_scan, scan64, scan_inputs, ("b2t", 3)),
    "gspn2d": (tt.gspn2d, whole64, whole_inputs, (None, None, 0)),
    "gspn2d with skip": (tt.gspn2d, whole64, skipped_inputs, (0,)),
}
SIZES = [(2, 3, 3, 7, 9), (1, 5, 1, 17, 4), (3, 1, 1, 1, 6), (2, 2, 1, 5, 1), (1, 4, 4, 1, 1), (1, 2, 2, 33, 40)]


def drawn(name, sizes, dtype=torch.float32, seed=0):
    _, _, inputs, _ = OPS[name]
    return [t.to(dtype) for t in inputs(*sizes, torch.Generator().manual_seed(seed))]


def pulled(function, inputs, grad):
    """The result and the gradients of the inputs."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype), materialize_grads=True)]


#: Elements compared at least: of fewer, one rounding error would be weighed against one other.
ENOUGH = 256


def check(name, inputs, grad, views=lambda t: t):
    """Forward and backward within the rule of the whole project; the four numbers of merge are a test of their own."""
    op, oracle, _, options = OPS[name]
    found = pulled(lambda *leaves: op(*map(views, leaves), *options), inputs, grad)
    truth, yardstick = (
        pulled(lambda *leaves, d=d: oracle(d, *map(views, leaves), *options), [t.to(d) for t in inputs], grad)
        for d in (torch.float64, torch.float32)
    )
    eps = torch.finfo(inputs[0].dtype).eps
    triples = [ts for ts in zip(found, truth, yardstick, strict=True) if ts[0].numel() >= ENOUGH]
    return [compare(y.double(), y64, t32.double(), eps) for y, y64, t32 in triples]


def test_gradient_of_merge():
    """Of many draws together, because one gives four numbers."""
    found = [[], [], []]
    for seed in range(ENOUGH // 4):
        *inputs, merge = drawn("gspn2d with skip", (2, 3, 1, 7, 9), seed=seed)
        grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(seed))
        for into, dtype in zip(found, (None, torch.float64, torch.float32), strict=True):
            leaf, rest = merge.to(dtype or merge.dtype).requires_grad_(), [t.to(dtype or t.dtype) for t in inputs]
            y = whole64(dtype, *rest, leaf, 0) if dtype else tt.gspn2d(*rest, leaf)
            into += torch.autograd.grad(y, leaf, grad.to(y.dtype))
    y, y64, t32 = map(torch.stack, found)
    assert compare(y.double(), y64, t32.double(), torch.finfo(torch.float32).eps).ok


def pooled(name, sizes, dtype):
    """Enough elements that one rounding error is not weighed against one other: the batch grows for small maps."""
    n, c, g, h, w = sizes
    n = max(n, -(-ENOUGH // (c * h * w)), -(-ENOUGH // (3 * g * h * w)))
    inputs = drawn(name, (n, c, g, h, w), dtype)
    op, *_, options = OPS[name]
    grad = torch.randn(op(*inputs, *options).shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return inputs, grad


@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float32) for name in OPS), *HALVES, *LONG], ids=str)
def test_forward_and_backward_equal_the_oracle(name, dtype):
    for sizes in SIZES:
        for verdict in check(name, *pooled(name, sizes, dtype)):
            assert verdict.ok, (sizes, verdict)


def test_gradients_of_the_oracle_are_those_of_finite_differences():
    for name, (_, oracle, _, options) in OPS.items():
        inputs = [t.double().requires_grad_() for t in drawn(name, (1, 2, 1, 4, 3))]
        assert torch.autograd.gradcheck(lambda *leaves, o=oracle, s=options: o(torch.float64, *leaves, *s), inputs), name


@pytest.mark.parametrize("name", OPS)
def test_opcheck(name):
    op, _, _, options = OPS[name]
    inputs = [t.requires_grad_() for t in drawn(name, SIZES[0])]
    registered = getattr(torch.ops.treadle, op.__name__).default
    assert set(torch.library.opcheck(registered, (*inputs, *options)).values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_under_torch_compile(backend):
    """In one graph with what stands around it, forward and backward, at sizes that change."""

    def model(x, lam, logits):
        return (tt.gspn_scan(2 * x, lam, tt.gspn_gates(logits, "l2r"), "l2r", 4).sin() * x).sum()

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for h, w in ((7, 9), (12, 5)):
        random = torch.Generator().manual_seed(h)
        inputs = [
            torch.randn(s, generator=random, requires_grad=True) for s in ((2, 3, h, w), (2, 3, h, w), (2, 3, 3, h, w))
        ]
        eager, traced = (torch.autograd.grad(f(*inputs), inputs) for f in (model, compiled))
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(eager, traced, strict=True))


@pytest.mark.parametrize("name", OPS)
def test_what_is_not_contiguous_is_right_and_nothing_is_written_to(name):
    inputs, grad = pooled(name, SIZES[0], torch.float32)
    views = [torch.stack([t, t], -1)[..., 0] for t in inputs]
    assert not any(t.is_contiguous() for t in views)
    spread = grad[:, :1].expand_as(grad)  # as sum() hands back: one element for many
    kept = [t.clone() for t in (*views, spread)]
    assert all(v.ok for v in check(name, views, spread))
    assert all(torch.equal(a, b) for a, b in zip((*views, spread), kept, strict=True))
    assert all(v.ok for v in check(name, [t.mT if t.dim() > 1 else t for t in inputs], grad, lambda t: t.mT if t.dim() > 1 else t))


@pytest.mark.parametrize("name", OPS)
def test_without_elements_there_is_nothing_to_compute(name):
    op, _, _, options = OPS[name]
    for sizes in ((0, 3, 3, 4, 5), (2, 3, 1, 0, 5), (2, 3, 3, 4, 0)):
        inputs = [t.requires_grad_() for t in drawn(name, sizes)]
        y = op(*inputs, *options)
        assert y.numel() == 0
        assert all(torch.equal(g, torch.zeros_like(t)) for g, t in zip(torch.autograd.grad(y.sum(), inputs, materialize_grads=True), inputs, strict=True))


LARGE = [(65537, 1, 1, 2, 3), (1, 1, 1, 3, 1025), (1, 2, 1, 2049, 2)]


@pytest.mark.parametrize("sizes", LARGE, ids=str)
def test_beyond_the_limits_of_a_grid_and_of_a_block(sizes):
    """N * C > 65,535 and lines longer than 1024, whichever axis they run along."""
    for name in ("gates r2l", "scan t2b", "gspn2d"):
        inputs = drawn(name, sizes)
        grad = torch.randn_like(OPS[name][0](*inputs, *OPS[name][3]))
        assert all(v.ok for v in check(name, inputs, grad)), name


def test_a_chunk_beyond_the_walk_is_one_walk():
    inputs = drawn("scan t2b", SIZES[0])
    assert torch.equal(tt.gspn_scan(*inputs, "t2b", 1000), tt.gspn_scan(*inputs, "t2b", 0))


X, GATES = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 3, 4, 5)
LAM, LOGITS = torch.randn(2, 4, 3, 4, 5), torch.randn(2, 4, 3, 3, 4, 5)
BAD = {
    "rank of x": (tt.gspn_scan, (X[0], X, GATES), ArgumentError, "axes of x"),
    "shape of lam": (tt.gspn_scan, (X, X[:, :, 1:], GATES), ArgumentError, "shape of lam"),
    "four gates": (tt.gspn_scan, (X, X, torch.rand(2, 4, 3, 4, 5)), ArgumentError, "shape of gates"),
    "G neither 1 nor C": (tt.gspn_scan, (X, X, GATES[:, :, :2]), ArgumentError, "G, the groups"),
    "mixed dtypes": (tt.gspn_scan, (X, X, GATES.half()), ArgumentError, "dtype of gates"),
    "float64": (tt.gspn_scan, (X.double(), X.double(), GATES.double()), ArgumentError, "float64"),
    "integers": (tt.gspn_gates, (GATES.int(),), ArgumentError, "int32"),
    "direction": (tt.gspn_scan, (X, X, GATES, "l2t"), UnknownNameError, "l2r"),
    "direction of gates": (tt.gspn_gates, (GATES, "up"), UnknownNameError, "up"),
    "negative chunk": (tt.gspn_scan, (X, X, GATES, "t2b", -1), ArgumentError, "-1"),
    "three directions": (tt.gspn2d, (X, LAM[:, :3], LOGITS, LAM), ArgumentError, "shape of lam"),
    "logits without directions": (tt.gspn2d, (X, LAM, GATES, LAM), ArgumentError, "axes of logits"),
    "groups of logits": (tt.gspn2d, (X, LAM, LOGITS[:, :, :, :2], LAM), ArgumentError, "G, the groups"),
    "merge of three": (tt.gspn2d, (X, LAM, LOGITS, LAM, None, X[0, 0, 0, :3]), ArgumentError, "shape of merge"),
    "merge of another dtype": (tt.gspn2d, (X, LAM, LOGITS, LAM, None, X.double()[0, 0, 0, :4]), ArgumentError, "dtype of merge"),
    "negative chunk of all": (tt.gspn2d, (X, LAM, LOGITS, LAM, None, None, -2), ArgumentError, "-2"),
    "two gates": (tt.gspn_gates, (GATES[:, :2],), ArgumentError, "shape of logits"),
}


@pytest.mark.parametrize("what", BAD)
def test_mistakes_are_named(what):
    op, args, kind, words = BAD[what]
    with pytest.raises(kind, match=words) as caught:
        op(*args)
    assert isinstance(caught.value, TreadleError) and caught.value.expected is not None


@pytest.mark.parametrize("name", OPS)
def test_a_hundred_runs_are_bitwise_equal(name):
    op, _, _, options = OPS[name]
    inputs, grad = pooled(name, (2, 5, 1, 19, 33), torch.float32)
    first = pulled(partial(_with, op, options), inputs, grad)
    for _ in range(99):
        again = pulled(partial(_with, op, options), inputs, grad)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def _with(op, options, *leaves):
    return op(*leaves, *options)


def test_threads_may_call_at_once():
    inputs = drawn("scan t2b", (2, 8, 1, 32, 48))
    expected, found = tt.gspn_scan(*inputs), {}

    def work(i):
        found[i] = all(torch.equal(tt.gspn_scan(*inputs), expected) for _ in range(50))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == dict.fromkeys(range(4), True)


def test_importing_treadle_imports_no_torch():
    code = "import sys, treadle, treadle.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
