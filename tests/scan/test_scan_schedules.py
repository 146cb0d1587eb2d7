"""The CPU scan schedules against the oracles: every legal Point, forward and adjoint, at sizes nobody would choose."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace

import pytest
import torch
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import te

from treadle.codegen import cpu as codegen
from treadle.ir import Program, Read, Scan, build, define
from treadle.ir import dims as dm
from treadle.ir.oracles.check import compare
from treadle.ir.program import Builder
from treadle.ir.scan import trace
from treadle.schedules.cpu import scan_line, scan_tile
from treadle.schedules.space import Space
from treadle.schedules.target import Target

from .mutations import outer_gates_exchanged

TARGET = Target.parse("cpu")
DIRECTIONS = ("t2b", "b2t", "l2r", "r2l")
DTYPES = ("float32", "float16", "bfloat16")
CHUNKS = (0, 1, 3, 64)
ENOUGH = 256  # elements compared per case: fewer would weigh one rounding error against another


@dataclass(frozen=True)
class Kernel:
    program: Program
    module: object
    point: object


def _kernels():
    """Every legal Point of both schedules, with the programs taking turns; then every program by its default Points."""
    found = []
    programs = [("scan.gspn", d, t, c) for c in CHUNKS for t in DTYPES for d in DIRECTIONS]
    for module in (scan_line, scan_tile):
        turns = [p for p in programs if module is scan_line or p[1] in ("l2r", "r2l")]
        for i, point in enumerate(Space(module, build("scan.gspn", attrs={"direction": "l2r"}), TARGET).legal()):
            name, direction, dtype, chunk = turns[7 * i % len(turns)]
            found.append(Kernel(build(name, dtype, {"direction": direction, "chunk": chunk}), module, point))
    for i, (direction, dtype) in enumerate((d, t) for t in DTYPES for d in DIRECTIONS):
        attrs = {"direction": direction, "chunk": CHUNKS[i % 3]}
        for name in ("scan.gspn", "scan.gspn_adjoint"):
            program = build(name, dtype, attrs)
            module = next(m for m in (scan_tile, scan_line) if m.applies(program))
            found.append(Kernel(program, module, module.default(program, TARGET)))
    bound = build("scan.gspn", "float32", {"direction": "b2t"}, {"N": 1, "C": 3, "H": 9, "W": 37, "G": 1})
    return [*found, Kernel(bound, scan_line, scan_line.default(bound, TARGET))]


KERNELS = _kernels()


def compiled(kernels, folder):
    """One library for all; a symbol of its own for each, because the Points of a Program share theirs."""
    lowered = []
    for i, k in enumerate(kernels):
        func = k.module.schedule(k.program, TARGET, k.point).with_attr("global_symbol", f"kernel{i}")
        lowered.append(SimpleNamespace(symbol=f"kernel{i}", func=func))
    codegen.link_library(lowered, "", TARGET, folder / "kernels.so")
    library = tvm_ffi.load_module(str(folder / "kernels.so"))
    return [library.get_function(k.symbol) for k in lowered]


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    return compiled(KERNELS, tmp_path_factory.mktemp("scan"))


def tensor(shape, dtype, offset, fill):
    """A tensor whose data starts `offset` elements into its memory: aligned to an element, no more."""
    size = torch.Size(shape).numel()
    memory = torch.full((size + offset,), torch.nan, dtype=dtype)
    memory[offset:] = fill.flatten() if isinstance(fill, torch.Tensor) else fill
    return memory[offset:].view(shape)


def nowhere(attrs, height, width):
    """[3, H, W]: the gates whose neighbour does not exist."""
    walks_rows = attrs["direction"] in ("t2b", "b2t")
    steps, line = (height, width) if walks_rows else (width, height)
    missing = torch.zeros(3, steps, line, dtype=torch.bool)
    missing[0, :, 0] = missing[2, :, -1] = True
    missing[:, :: attrs["chunk"] or steps] = True
    missing = missing.flip(1) if attrs["direction"] in ("b2t", "r2l") else missing
    return missing if walks_rows else missing.mT


def draw(program, sizes, seed, offset=0, poisoned=True):
    """Inputs rounded to the dtype; gates sum to less than one, and those that must not be read are NaN."""
    random, dtype, inputs = torch.Generator().manual_seed(seed), getattr(torch, program.dtype), {}
    for arg in program.args:
        shape = [dm.evaluate(s, sizes) for s in arg.shape]
        value = (
            torch.rand(shape, generator=random) / 1.5 - 1 / 3
            if arg.op.name == "gates"
            else torch.randn(shape, generator=random)
        )
        inputs[arg.op.name] = tensor(shape, dtype, offset, value.to(dtype))
    if "h" in inputs:  # the adjoint is given the forward scan's output
        forward = importlib.import_module("treadle.ir.oracles.scan.gspn").oracle
        h = forward(program.attrs, torch.float64, **{n: inputs[n] for n in ("x", "lam", "gates")})["h"]
        inputs["h"] = tensor(h.shape, dtype, offset, h.to(dtype))
    if poisoned:
        missing = nowhere(program.attrs, *inputs["gates"].shape[-2:])
        inputs["gates"].masked_fill_(missing[:, None], torch.nan)
    return inputs


def verdicts(program, function, sizes, seed=0, offset=0):
    oracle = importlib.import_module(f"treadle.ir.oracles.{program.name}").oracle
    shapes = {r.op.name: [dm.evaluate(s, sizes) for s in r.shape] for r in program.results}
    found = {n: [] for n in shapes}
    dtype = getattr(torch, program.dtype)
    for i in range(-(-ENOUGH // min(torch.Size(s).numel() for s in shapes.values()))):
        inputs = draw(program, sizes, seed + i, offset)
        results = {n: tensor(s, dtype, offset, torch.nan) for n, s in shapes.items()}
        function(*inputs.values(), *results.values())
        truth, yardstick = (oracle(program.attrs, t, **inputs) for t in (torch.float64, torch.float32))
        for n, y in results.items():
            found[n].append((y, truth[n], yardstick[n]))
    pooled = {n: [torch.stack(ts) for ts in zip(*each, strict=True)] for n, each in found.items()}
    return {n: compare(*each, torch.finfo(dtype).eps) for n, each in pooled.items()}


def spoil_scratch(program, function):
    """Fill the memory that the kernel will get as scratch: a larger problem, nothing but NaN."""
    sizes = {"N": 2, "C": 3, "H": 64, "W": 64, "G": 3}
    tensors = [*program.args, *program.results]
    function(
        *(torch.full([dm.evaluate(s, sizes) for s in t.shape], torch.nan, dtype=getattr(torch, str(t.dtype))) for t in tensors)
    )


AWKWARD = st.sampled_from((1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 67))


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, len(KERNELS) - 1), st.integers(1, 3), st.sampled_from((1, 2, 3, 17)), AWKWARD, AWKWARD,
    st.booleans(), st.sampled_from((0, 1, 3, 8)), st.integers(0, 2**20),
)  # fmt: skip
def test_every_point_agrees_with_the_oracle(functions, which, n, c, h, w, shared, offset, seed):
    program = KERNELS[which].program
    c = min(c, 3) if h * w > 1000 else c
    sizes = {"N": n, "C": c, "H": h, "W": w, "G": 1 if shared else c} | dict(program.bound)
    for name, verdict in verdicts(program, functions[which], sizes, seed, offset).items():
        assert verdict.ok, (name, KERNELS[which], sizes, verdict)


@pytest.mark.parametrize("which", [i for i, k in enumerate(KERNELS) if k.point.stream == 1])
def test_large_outputs_agree_where_they_are_written_past_the_caches(functions, which):
    program = KERNELS[which].program
    for width, offset in ((128, 0), (131, 3)):
        sizes = {"N": 1, "C": 20, "H": 250, "W": width, "G": 20} | dict(program.bound)
        assert all(v.ok for v in verdicts(program, functions[which], sizes, offset=offset).values()), (KERNELS[which], width)


def test_the_state_is_float32_whatever_the_tensors_hold(functions):
    """Unit source and unit gate: h counts the steps, past the 256 where a bfloat16 state would stick."""
    for k, function in zip(KERNELS, functions, strict=True):
        p = k.program
        if (p.name, p.dtype, p.attrs["chunk"]) == ("scan.gspn", "bfloat16", 0):
            x, h = torch.ones(1, 1, 512, 512, dtype=torch.bfloat16), torch.empty(1, 1, 512, 512, dtype=torch.bfloat16)
            gates = torch.zeros(1, 3, 1, 512, 512, dtype=torch.bfloat16)
            gates[:, 1] = 1
            function(x, x, gates, h)
            assert h.max() == 512


def test_runs_are_bitwise_equal(functions):
    for k, function in zip(KERNELS, functions, strict=True):
        sizes = {"N": 2, "C": 5, "H": 19, "W": 33, "G": 1} | dict(k.program.bound)
        inputs = draw(k.program, sizes, 0)
        shapes = [[dm.evaluate(s, sizes) for s in r.shape] for r in k.program.results]
        runs = [[torch.empty(s, dtype=getattr(torch, k.program.dtype)) for s in shapes] for _ in range(2)]
        for results in runs:
            function(*inputs.values(), *results)
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


class Unmasked(Scan):
    def inside(self, position):
        return position == position


class Rounded(Scan):
    def value(self, expr, load, carry=None):
        return super().value(expr, load, None if carry is None else carry.astype("float16").astype("float32"))


def _as(kind, scan):
    return kind(**{f.name: getattr(scan, f.name) for f in fields(scan)})


def _short(scan):
    walked = list(scan.space)[scan.axis]
    return replace(scan, space={**scan.space, walked: scan.steps - 1})


MUTATIONS = {
    "none": lambda scan: scan,
    "swapped gates": outer_gates_exchanged,
    "unmasked border": lambda scan: _as(Unmasked, scan),
    "chunk leak": lambda scan: replace(scan, chunk=0),
    "dropped last line": _short,
    "carry in low precision": lambda scan: _as(Rounded, scan),
}


def test_planted_mutations_are_caught(tmp_path):
    kernels, names = [], []
    for mutation, mutate in MUTATIONS.items():
        for direction, module in (("b2t", scan_line), ("l2r", scan_tile)):
            for name in ("scan.gspn", "scan.gspn_adjoint"):
                program = build(name, "float32", {"direction": direction, "chunk": 7})
                kernels.append(Kernel(replace(program, scan=mutate(program.scan)), module, module.default(program, TARGET)))
                names.append(mutation)
    for mutation, k, function in zip(names, kernels, compiled(kernels, tmp_path), strict=True):
        spoil_scratch(k.program, function)
        ok = all(v.ok for v in verdicts(k.program, function, {"N": 2, "C": 3, "H": 19, "W": 35, "G": 3}).values())
        assert ok == (mutation == "none"), (mutation, k.program.name, k.module)


def _own(layout, dtype="float32"):
    """A scan with an initial carry, a nonlinear weight and a one-sided neighbour; and its adjoint, with a flush."""

    def definition(b):
        n, t, w = (b.dim(name) for name in "NTL")
        shape = {"N": n, "T": t, "L": w}
        space = {name: shape[name] for name in layout}
        reads = {name: Read(b.arg(name, tuple(space.values())), tuple) for name in "abc"}
        at = {name: i for i, name in enumerate(layout)}
        init = Read(b.arg("init", (n, w)), lambda p: (p[at["N"]], p[at["L"]]))
        from tvm import tirx

        return trace(
            space, "T", "L", reads, lambda r, h: r.b + tirx.exp(r.a) * h[0] + r.c * h[-1], "h", dtype, chunk=5, init=init
        )

    def program(name, body):
        d = define(name, math="", source="")(body)
        b = Builder(d, dtype, {}, {})
        scan = d.build(b)
        return Program(name, dtype, {}, b.dims, {}, tuple(b.args), scan.results, scan, 0, 0, d)

    def backward(b):
        scan = definition(b)
        shape = scan.outputs[0].tensor.shape
        grad, saved = b.arg("dh", shape), b.arg("h", shape)
        results = {
            t.op.name: te.placeholder(t.shape, dtype, f"d{t.op.name}") for t in b.args if t.op.name in ("a", "b", "c", "init")
        }
        return scan.adjoint(grad, saved, results)

    return program(f"own.{layout.lower()}", definition), program(f"own.{layout.lower()}_adjoint", backward)


def _own_oracle(a, b, c, init):
    """[N, T, L] in the dtype of its arguments."""
    carry, out = init, []
    for t in range(a.shape[1]):
        carried = a[:, t].exp() * carry + torch.nn.functional.pad(c[:, t, 1:] * carry[:, :-1], (1, 0))
        carry = b[:, t] + (carried if t == 0 or t % 5 else 0)
        out.append(carry)
    return torch.stack(out, 1)


@pytest.fixture(scope="module", params=["NTL", "NLT"])
def own(request, tmp_path_factory):
    """The scan and its adjoint, run on [N, T, L] tensors whichever axis is contiguous in the kernel."""
    layout = request.param
    kernels = [Kernel(p, scan_line, scan_line.default(p, TARGET)) for p in _own(layout)]
    forward, backward = compiled(kernels, tmp_path_factory.mktemp("own"))
    turn = (lambda t: t.mT.contiguous()) if layout == "NLT" else (lambda t: t)

    def run(a, b, c, init, dh):
        h = torch.full_like(turn(a), torch.nan)
        inputs = [turn(t) for t in (a, b, c)]
        forward(*inputs, init, h)
        grads = [torch.full_like(h, torch.nan) for _ in "abc"] + [torch.full_like(init, torch.nan)]
        backward(*inputs, init, turn(dh), h, *grads)
        return [turn(t) for t in (h, *grads[:3])] + [grads[3]]

    return run


def _own_results(run, n, steps, width):
    random = torch.Generator().manual_seed(n * steps * width)
    a, b, c, dh = (torch.rand(n, steps, width, generator=random) - 0.75 for _ in "abcd")
    init = torch.randn(n, width, generator=random)
    found = run(a, b, c, init, dh)
    expected = []
    for dtype in (torch.float64, torch.float32):
        inputs = [t.to(dtype).requires_grad_() for t in (a, b, c, init)]
        h = _own_oracle(*inputs)
        expected.append([h.detach(), *torch.autograd.grad(h, inputs, dh.to(dtype))])
    return list(zip(found, *expected, strict=True))


OWN_SIZES = [(3, 1, 1), (2, 1, 40), (2, 5, 33), (1, 12, 64), (5, 23, 7)]


@pytest.mark.parametrize(("n", "steps", "width"), OWN_SIZES)
def test_a_scan_of_ones_own_starts_from_init_and_flushes_its_gradient(own, n, steps, width):
    for y, y64, t32 in _own_results(own, n, steps, width):
        assert compare(y, y64, t32, torch.finfo(torch.float32).eps).ok


def test_points_are_refused_with_a_reason():
    program = build("scan.gspn")
    far = replace(program.scan.terms[0], offset=-40)
    wide = replace(program, scan=replace(program.scan, terms=(far,)))
    assert "40 positions along the line" in " ".join(scan_line.legal(wide, TARGET, scan_line.Knobs()))
    assert not scan_tile.applies(program)
