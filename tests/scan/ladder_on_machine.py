"""The rungs of the ladder on the PTX machine, in a process of their own: a process has one CUDA, and the stand-in is everybody's.

python ladder_on_machine.py TIER prints {check: {rung: "" or what is wrong}} as JSON. The machine adds its own: races, bounds,
missing waits and uninitialised reads are errors, whatever the numbers.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import fields, replace

import torch
import tvm_ffi
from mutations import outer_gates_exchanged  # beside this script

from treadle.batch import compile_many
from treadle.codegen import lower as low
from treadle.dtypes import dtype as find_dtype
from treadle.ir import build
from treadle.ir import dims as dm
from treadle.ir.oracles.check import compare
from treadle.ir.oracles.scan import gspn, gspn_adjoint, gspn_gates
from treadle.ir.scan import Scan
from treadle.schedules.scan import step
from treadle.schedules.scan.gspn import ORDER
from treadle.schedules.scan.gspn_adjoint import ORDER as ADJOINT
from treadle.schedules.target import Target

PTX, CUDA = Target.parse("ptx:sm_90a"), Target.parse("cuda:sm_90a")
ORACLES = {"scan.gspn": gspn.oracle, "scan.gspn_adjoint": gspn_adjoint.oracle}
ACROSS = ("l2r", "r2l")  # directions whose lines lie across the contiguous axis
TURNED = ("tile", "one_launch")  # rungs for those alone; per_step is for all four, the others for t2b and b2t
#: Small blocks, so that a line of 96 has several warps, several blocks of a cluster, and threads of several columns.
SMALL = {
    "line": {"threads": 64, "columns": 2}, "shuffle": {"threads": 64, "columns": 2}, "together": {"threads": 64, "columns": 2},
    "staged": {"threads": 64, "columns": 2}, "cluster": {"threads": 64, "columns": 1, "ahead": 1, "ctas": 2},
    "latency": {"columns": 4, "ahead": 7, "lines": 2}, "coalesced": {"threads": 128}, "one_launch": {"threads": 128},
    "per_step": {"threads": 128}, "tile": {"threads": 128},
}  # fmt: skip
LINE, RAGGED, CHUNK = 96, 71, 4
TALL = ("staged", "cluster", "per_step")  # whose grids are counted in three ways
CI_MUTANTS = ("cluster",)  # of the others in the long tier


def home(rung, which=0):
    return (ACROSS if rung in TURNED else ("t2b", "b2t"))[which]


def lowered(rung, direction, dtype="float32", chunk=0, knobs=None, name="scan.gspn", line=None, mutate=lambda scan: scan):
    dims = None if line is None else {("H" if direction in ACROSS else "W"): line}
    program = build(name, dtype, {"direction": direction, "chunk": chunk}, dims)
    program = replace(program, scan=mutate(program.scan))
    space = next(s for s in low.spaces(program, CUDA) if s.name == rung)
    return low.lower(program, CUDA, space, space.point(knobs or {}))


class Kernel:
    """A kernel of the library, called with tensors whose walk runs down the last axis but one, and whose line is the last."""

    def __init__(self, lowered, functions):
        self.program, self.function = lowered.program, functions[id(lowered)]
        self.direction, self.chunk = (self.program.attrs[n] for n in ("direction", "chunk"))

    def turn(self, t):
        t = t.flip(-2) if self.direction in ("b2t", "r2l") else t
        return t.transpose(-1, -2) if self.direction in ACROSS else t

    def back(self, t):
        t = t.transpose(-1, -2) if self.direction in ACROSS else t
        return t.flip(-2) if self.direction in ("b2t", "r2l") else t

    def raw(self, given):
        sizes = dict(zip("NCHW", given["x"].shape, strict=True), G=given["gates"].shape[2])
        results = {
            t.op.name: torch.full([dm.evaluate(s, sizes) for s in t.shape], torch.nan, dtype=given["x"].dtype)
            for t in self.program.results
        }
        self.function(*(tvm_ffi.from_dlpack(t) for t in (*given.values(), *results.values())))
        return results

    def __call__(self, x, lam, gates):
        given = {n: self.turn(t).contiguous() for n, t in (("x", x), ("lam", lam), ("gates", gates))}
        return self.back(self.raw(given)["h"])

    def gates(self, logits):
        """Normalised as the Program's direction has it."""
        attrs = {"direction": self.direction}
        return self.back(gspn_gates.oracle(attrs, torch.float32, logits=self.turn(logits).contiguous())["gates"])

    def held(self, n, c, g, walk, line, seed=0):
        """Against the oracle, NaN where a gate's neighbour does not exist."""
        random, kind = torch.Generator().manual_seed(seed), getattr(torch, self.program.dtype)
        draws = -(-256 // (n * walk * line))  # the tolerance weighs worst against worst: some hundred elements at least
        found = {}
        for _ in range(draws):
            shapes = {a.op.name: (n, 3, g, walk, line) if a.op.name == "gates" else (n, c, walk, line) for a in self.program.args}
            frame = {name: 2 * torch.rand(s, generator=random) - 1 for name, s in shapes.items()}
            gates = frame["gates"] = frame["gates"] / 3
            gates[:, 0, ..., 0] = gates[:, 2, ..., -1] = gates[..., :: self.chunk or walk, :] = torch.nan
            given = {name: self.turn(t).contiguous().to(kind) for name, t in frame.items()}
            results = self.raw(given)
            truth, near = (ORACLES[self.program.name](self.program.attrs, k, **given) for k in (torch.float64, torch.float32))
            for name, y in results.items():
                found.setdefault(name, []).append((y, truth[name], near[name]))
        for name, triples in found.items():
            verdict = compare(*(torch.stack(t) for t in zip(*triples, strict=True)), find_dtype(self.program.dtype).eps or 0.0)
            assert verdict.ok, f"{name} at {(n, c, g, walk, line)}: {verdict}"


def draw(walk, line=LINE, n=1, c=2, seed=0):
    random = torch.Generator().manual_seed(seed)
    x, lam = (torch.randn(n, c, walk, line, generator=random) for _ in range(2))
    return x, lam, 2 * torch.randn(n, 3, c, walk, line, generator=random)


def near(a, b):
    assert (a.double() - b.double()).abs().max() <= 2e-5 * max(1, float(b.abs().max())), "not equal"


# The decisive properties: of a global walk over lines of whole pieces, and of a chunked walk from the other side over lines
# that are not. Tensors are turned so that walks run down: what holds of both holds of both directions alike.


def equals_the_oracle(walk, chunked):
    for kernel, line in ((walk, LINE), (chunked, RAGGED)):
        for n, c, g, steps in ((1, 4, 1, 9), (2, 3, 3, 2), (1, 1, 1, 1), (1, 6, 6, 5)):
            kernel.held(n, c, g, steps, line)


def equals_the_dense_affinity(walk, chunked):
    for kernel, line in ((walk, LINE), (chunked, RAGGED)):
        x, lam, logits = draw(CHUNK, line, c=1)
        gates = kernel.gates(logits)
        state, rows = torch.zeros(line, dtype=torch.float64), []
        for t in range(CHUNK):
            a, b, c = gates[0, :, 0, t].double()
            tridiagonal = torch.diag(b) + torch.diag(a[1:], -1) + torch.diag(c[:-1], 1)
            state = (tridiagonal @ state if t else 0) + (lam * x)[0, 0, t].double()
            rows.append(state)
        near(kernel(x, lam, gates)[0, 0], torch.stack(rows))


def counts_its_steps(walk, chunked):
    for kernel, line in ((walk, LINE), (chunked, RAGGED)):
        _, _, logits = draw(11, line)
        ones = torch.ones(1, 2, 11, line)
        counted = torch.arange(11) % (kernel.chunk or 11) + 1
        near(kernel(ones, ones, kernel.gates(logits)), counted[:, None].expand(1, 2, 11, line))


def mirrors_lines(walk, chunked):
    for kernel, line in ((walk, LINE), (chunked, RAGGED)):
        x, lam, logits = draw(6, line)
        gates = kernel.gates(logits)
        near(kernel(x.flip(-1), lam.flip(-1), gates.flip(1, -1)).flip(-1), kernel(x, lam, gates))


def starts_afresh_at_chunks(walk, chunked):
    x, lam, logits = draw(2 * CHUNK + 3, RAGGED)
    gates = chunked.gates(logits)
    pieces = [chunked(*(t[..., at : at + CHUNK, :] for t in (x, lam, gates))) for at in range(0, 2 * CHUNK + 3, CHUNK)]
    assert torch.equal(chunked(x, lam, gates), torch.cat(pieces, -2)), "chunks do not start afresh"


PROPERTIES = (equals_the_oracle, equals_the_dense_affinity, counts_its_steps, mirrors_lines, starts_afresh_at_chunks)


# Mutations: what is planted in the Scan or in what all forms of a block share.


class _Short(Scan):
    @property
    def steps(self):
        return super().steps - 1


def last_step_missing(scan):
    return _Short(**{f.name: getattr(scan, f.name) for f in fields(scan)})


MUTATIONS = {
    "outer gates exchanged": outer_gates_exchanged,
    "chunk leak": lambda scan: replace(scan, chunk=0),
    "last step missing": last_step_missing,
    "border unmasked": lambda scan: scan,
}


def mutants(rung):
    """A kernel per mutation, of a chunked walk over whole pieces."""
    made = []
    for name, mutate in MUTATIONS.items():
        beside = step.Cell.beside
        if name == "border unmasked":
            step.Cell.beside = lambda self, shifts: []
        try:
            made.append(lowered(rung, home(rung), chunk=CHUNK, knobs=SMALL[rung], line=LINE, mutate=mutate))
        finally:
            step.Cell.beside = beside
    return made


def run(check, *arguments):
    try:
        check(*arguments)
    except Exception as wrong:  # a hazard of the machine, or an assertion
        return f"{type(wrong).__name__}: {str(wrong)[:500]}"
    return ""


def main(tier):
    found = {}

    def note(check, rung, said):
        found.setdefault(check, {})[rung] = said

    library = {}
    if tier == "ci":
        for rung in ORDER:
            knobs = SMALL[rung]
            library[rung] = [
                lowered(rung, home(rung), knobs=knobs, line=LINE),
                lowered(rung, home(rung, 1), chunk=CHUNK, knobs=knobs, line=RAGGED),
            ]
    planted = {r: mutants(r) for r in (CI_MUTANTS if tier == "ci" else ORDER if tier == "mutants" else ())}
    wide = {}
    if tier == "sizes":
        for rung in ORDER:
            for dtype in ("float32", "bfloat16", "float16"):
                if rung == "per_step" and dtype != "float32":
                    continue
                directions = ("t2b", "r2l") if rung == "per_step" else (home(rung, dtype == "bfloat16"),)
                wide[rung, dtype] = [lowered(rung, d, dtype, chunk=(0, 3)[dtype == "float16"]) for d in directions]
    if tier == "adjoint":
        for rung in ADJOINT:
            for dtype in ("float32", "bfloat16"):
                wide[rung, dtype] = [lowered(rung, home(rung, dtype == "bfloat16"), dtype, 3, name="scan.gspn_adjoint")]
    with ExitStack() as keep:
        groups = [*library.values(), *planted.values(), *wide.values()]
        functions = compile_many([k for group in groups for k in group], PTX, keep, lambda _: None)
        for rung, kernels in library.items():
            both = [Kernel(k, functions) for k in kernels]
            for holds in PROPERTIES:
                note(holds.__name__, rung, run(holds, *both))
        for rung, kernels in planted.items():
            for name, k in zip(MUTATIONS, kernels, strict=True):
                note(name, rung, run(Kernel(k, functions).held, 1, 4, 4, 2 * CHUNK + 1, LINE))
        for (rung, dtype), kernels in wide.items():
            for k in kernels:
                note(f"any size in {dtype}", rung, run(sweep, Kernel(k, functions), tier == "sizes" and dtype == "float32" and rung in TALL))
    print(json.dumps(found))


def sweep(kernel, forward):
    """Lines about warps, blocks, clusters and beyond; and more lines than a grid is high."""
    for i, line in enumerate((1, 2, 31, 33, 64, 128, 257, 1025, 2048, 2049, 4096, 8195)):
        c = (4, 3)[i % 2]
        kernel.held(1, c, 1, 3 + i % 3, line, seed=i)
        kernel.held(2, c, c, 5 - i % 3, line, seed=i)
    if forward:
        kernel.held(65537, 1, 1, 1, 1)


if __name__ == "__main__":
    main(sys.argv[1])
