"""The CUDA schedules of scans: emulated against the oracle, refused with reasons."""

import random
import re
from dataclasses import asdict
from functools import cache

import pytest
import torch
import tvm
import tvm_ffi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.codegen import lower as low
from treadle.dtypes import dtype as find_dtype
from treadle.errors import ArgumentError, ToolchainError
from treadle.ir import build
from treadle.ir import dims as dm
from treadle.ir.oracles.check import compare
from treadle.ir.oracles.scan import gspn, gspn_adjoint
from treadle.schedules import serial
from treadle.schedules.scan import member, registers, step, strided, tiles
from treadle.schedules.target import Target

ORACLES = {"scan.gspn": gspn.oracle, "scan.gspn_adjoint": gspn_adjoint.oracle}
SCHEDULES = [(name, schedule) for name in ORACLES for schedule in ("line", "tile")]
DIRECTIONS = {"line": ("t2b", "b2t"), "tile": ("l2r", "r2l")}
DTYPES = ("float32", "float16", "bfloat16")
EMULATED, CUDA = Target.parse("emulate:sm_90a"), Target.parse("cuda:sm_90a")
#: Elements before and after every result, which nobody may write
PAD = 64


def space(program, schedule, target=EMULATED):
    return next(s for s in low.spaces(program, target) if s.name == schedule)


def compiled(program, schedule, point=None):
    lowered = low.lower(program, EMULATED, space(program, schedule), point)
    module = tvm.ir.IRModule({lowered.symbol: lowered.func})
    return tvm.compile(module, target={"kind": "llvm", "mcpu": "x86-64-v3"})[program.symbol]


def upright(t, direction):
    """A view in which the walk runs down the second axis from the end."""
    t = t if direction in ("t2b", "b2t") else t.transpose(-1, -2)
    return t.flip(-2) if direction in ("b2t", "r2l") else t


def arguments(program, sizes, seed):
    """Random inputs; gates of a neighbour outside the line or before the chunk are NaN: no one may multiply by them."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for a in program.args:
        t = torch.rand([dm.evaluate(s, sizes) for s in a.shape], generator=g)
        found[a.op.name] = t / 3 if a.op.name == "gates" else 2 * t - 1
    unused = torch.zeros_like(found["gates"], dtype=torch.bool)
    frame = upright(unused, program.attrs["direction"]).clone()
    frame[:, 0, ..., 0] = frame[:, 2, ..., -1] = frame[..., :: program.attrs["chunk"] or frame.shape[-2], :] = True
    frame = frame.flip(-2) if program.attrs["direction"] in ("b2t", "r2l") else frame
    unused = frame if program.attrs["direction"] in ("t2b", "b2t") else frame.transpose(-1, -2)
    found["gates"] = found["gates"].masked_fill(unused, float("nan"))
    return {n: t.contiguous().to(getattr(torch, program.dtype)) for n, t in found.items()}


def once(program, kernel, sizes, seed):
    """One call: (result, oracle in float64, in float32) by the names of the results."""
    given_ = arguments(program, sizes, seed)
    shapes = {t.op.name: [dm.evaluate(s, sizes) for s in t.shape] for t in program.results}
    whole = {n: torch.full([torch.Size(s).numel() + 2 * PAD], float("nan"), dtype=given_["x"].dtype) for n, s in shapes.items()}
    results = {n: w[PAD:-PAD].view(shapes[n]) for n, w in whole.items()}
    kernel(*(given_[a.op.name] for a in program.args), *results.values())
    for w in whole.values():
        assert w[:PAD].isnan().all() and w[-PAD:].isnan().all(), "written outside a result"
    y64, t32 = (ORACLES[program.name](program.attrs, kind, **given_) for kind in (torch.float64, torch.float32))
    return {n: (y, y64[n], t32[n]) for n, y in results.items()}


def verdicts(program, kernel, sizes, seed=0):
    """Some hundred elements at least: of a few alone the tolerance would weigh chance against chance."""
    sizes = {**program.bound, **sizes}
    pixels = sizes["N"] * sizes["H"] * sizes["W"]
    calls = [once(program, kernel, sizes, seed + 1000 * i) for i in range(-(-128 // pixels))]
    stacked = {n: [torch.stack([c[n][i] for c in calls]) for i in range(3)] for n in calls[0]}
    return {n: compare(*three, find_dtype(program.dtype).eps) for n, three in stacked.items()}


def check(program, kernel, sizes, seed=0):
    for name, v in verdicts(program, kernel, sizes, seed).items():
        assert v.ok, (program.name, dict(program.attrs), program.dtype, sizes, name, v)


def oriented(schedule, walk, line):
    return {"H": walk, "W": line} if schedule == "line" else {"H": line, "W": walk}


# Every knob, on sizes of its own: the sizes are bound, so that each case compiles only the kernels that it runs.


def case(i):
    """The i-th random case: a legal point of some schedule, and sizes around the borders of its kernels."""
    rng = random.Random(i)
    name, schedule = SCHEDULES[i % len(SCHEDULES)]
    attrs = {"direction": rng.choice(DIRECTIONS[schedule]), "chunk": rng.choice((0, 0, 1, 3))}
    dtype = rng.choice(DTYPES)
    probe = space(build(name, dtype, attrs), schedule)
    point = rng.choice([p for p in probe.points() if p.threads <= 256 and not probe.refusals(p)])
    per = point.columns if schedule == "line" else point.rows
    longest = point.threads * per
    line = rng.choice((1, 2, per + 1, 31, 32 * per, 32 * per + 1, longest - 1, longest, longest + 1, 2 * longest + 3))
    walk = rng.choice((1, 2, 7, 8, 13, 17, 33) if line > 64 else (1, 8, 16, 31, 64))
    channels = rng.choice((1, 2, 3, 5))
    sizes = {**oriented(schedule, walk, line), "C": channels, "G": rng.choice((1, channels))}
    return name, schedule, attrs, dtype, sizes, point


@pytest.mark.parametrize("i", range(24))
def test_a_legal_point_computes_the_scan(i):
    name, schedule, attrs, dtype, sizes, point = case(i)
    program = build(name, dtype, attrs, sizes)
    assert not space(program, schedule).refusals(point)
    check(program, compiled(program, schedule, point), {"N": 2}, seed=i)


@pytest.mark.long  # a kernel compiled for each
@pytest.mark.parametrize("i", range(1000, 1300))
def test_many_legal_points_compute_the_scan(i):
    test_a_legal_point_computes_the_scan(i)


# The defaults, compiled once with symbolic sizes: all kernels in one function, chosen by the host.

KERNELS = [
    ("scan.gspn", "line", "t2b", "float32", 0),
    ("scan.gspn", "tile", "r2l", "float16", 4),
    ("scan.gspn_adjoint", "line", "b2t", "bfloat16", 3),
    ("scan.gspn_adjoint", "tile", "l2r", "float32", 4),
]


@cache
def default(name, schedule, direction, dtype, chunk):
    program = build(name, dtype, {"direction": direction, "chunk": chunk})
    return program, compiled(program, schedule)


@pytest.mark.parametrize(
    "key", [KERNELS[0], *(pytest.param(k, marks=pytest.mark.long) for k in KERNELS[1:])], ids=lambda k: "-".join(map(str, k))
)  # long: the other three take a minute
def test_one_function_serves_all_sizes(key):
    program, kernel = default(*key)

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        n=st.integers(1, 2), c=st.integers(1, 9), shared=st.booleans(), seed=st.integers(0, 99),
        walk=st.sampled_from((1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 29, 40)),
        line=st.sampled_from((1, 2, 3, 8, 27, 32, 61, 64, 127, 128, 129, 255, 256, 257, 264)),
    )  # fmt: skip
    def run(n, c, shared, seed, walk, line):
        check(program, kernel, {"N": n, "C": c, "G": 1 if shared else c, **oriented(key[1], walk, line)}, seed)

    run()
    for line in (1023, 1024, 1025, 2048, 2053, 4096):
        check(program, kernel, {"N": 1, "C": 2, "G": 1, **oriented(key[1], 3, line)})


def test_more_lines_than_a_grid_is_high():
    program, kernel = default(*KERNELS[0])
    check(program, kernel, {"N": 65537, "C": 1, "G": 1, "H": 1, "W": 1})


def test_a_line_longer_than_shared_memory_is_refused_by_the_function():
    program, kernel = default(*KERNELS[0])
    most = strided.longest(CUDA)
    args = [torch.zeros(1, 3, 1, 1, most + 1) if a.op.name == "gates" else torch.zeros(1, 1, 1, most + 1) for a in program.args]
    with pytest.raises(Exception, match=f"longer than {most}"):
        kernel(*args, torch.zeros(1, 1, 1, most + 1))


# A test that cannot fail is a defect.


def drop_borders(monkeypatch):
    monkeypatch.setattr(step.Cell, "beside", lambda self, shifts: [])


def leak_chunks(monkeypatch):
    always = tvm.tirx.const(True, "bool")
    for module in (member, tiles, strided):
        monkeypatch.setattr(module, "step_of", lambda scan, s: step.Step(always, always))


def swap_edges(monkeypatch):
    read = registers.Edges.read
    own = lambda self, p, tx, ty: self.of[p][ty, tx + 1]  # noqa: E731
    monkeypatch.setattr(registers.Edges, "read", lambda self, p, tx, ty: (own if self.offset > 0 else read)(self, p, tx, ty))


@pytest.mark.parametrize(
    ("schedule", "mutate"),
    [("line", drop_borders), ("tile", drop_borders), ("line", leak_chunks), ("tile", leak_chunks), ("line", swap_edges)],
)
def test_mutations_are_killed(schedule, mutate, monkeypatch):
    program = build("scan.gspn", "float32", {"direction": DIRECTIONS[schedule][0], "chunk": 3}, oriented(schedule, 8, 40))
    check(program, compiled(program, schedule), {"N": 1, "C": 2, "G": 1})
    mutate(monkeypatch)
    assert not all(v.ok for v in verdicts(program, compiled(program, schedule), {"N": 1, "C": 2, "G": 1}).values())


# Refusals.


def test_every_illegal_point_says_why():
    refused = 0
    for name, schedule in SCHEDULES:
        for dtype, line in (("float32", 1 << 17), ("float32", 300), ("bfloat16", 300)):
            program = build(name, dtype, {"direction": DIRECTIONS[schedule][0]}, oriented(schedule, 8, line))
            whole = space(program, schedule, CUDA)
            for point in whole.points():
                if reasons := whole.refusals(point):
                    refused += 1
                    assert all(re.search(r"\d", r) and len(r.split()) > 6 for r in reasons), reasons
                    with pytest.raises(ArgumentError, match="refuses this point"):
                        whole.point(asdict(point))
    assert refused >= 150


def test_defaults_are_legal_at_any_size():
    for name, schedule in SCHEDULES:
        for dtype in DTYPES:
            for line in (None, 1, 7, 27, 64, 74, 147, 256, 512, 1000, 1024, 1023, 2048, 4096):
                dims = None if line is None else oriented(schedule, line, line)
                program = build(name, dtype, {"direction": DIRECTIONS[schedule][0]}, dims)
                whole = space(program, schedule, CUDA)
                assert not whole.refusals(whole.point()), (name, schedule, dtype, line)


def test_a_barrier_inside_a_thread_loop_is_not_emulated():
    program = build("scan.gspn", "float32", {"direction": "t2b"}, {"W": 8})
    func = space(program, "line").lower(space(program, "line").point())
    sync = tvm.tirx.Evaluate(tvm.tirx.call_intrin("int32", "tirx.tvm_storage_sync", "shared"))

    def spoil(loop):
        if loop.kind != tvm.tirx.ForKind.THREAD_BINDING or loop.thread_binding.thread_tag != "threadIdx.x":
            return loop
        body = tvm.tirx.SeqStmt([loop.body, sync])
        return tvm.tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding)

    with pytest.raises(ToolchainError, match="barriers between thread loops only"):
        serial.serial(tvm_ffi.structural_map(func, (tvm.tirx.For, spoil)))
