"""Fused scans against the oracles: awkward sizes, several Points and dtypes, one library; and planted mutations."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.batch import compile_many
from treadle.cases import draw_inputs, generator
from treadle.check import _verdicts
from treadle.codegen.lower import Lowered
from treadle.ir import build
from treadle.ir import dims as dm
from treadle.schedules.cpu import sweep
from treadle.schedules.target import Target

from .mutations import MUTATIONS

TARGET = Target.parse("cpu")
CASES = [
    ("scan.gspn_logits", "float32", {"direction": "b2t", "chunk": 3}, {"together": 2}),
    ("scan.gspn_logits", "bfloat16", {"direction": "r2l"}, {"columns": 16, "together": 1}),
    ("scan.gspn_logits_adjoint", "float16", {"direction": "l2r", "chunk": 5}, {"ahead": 0}),
    ("scan.gspn_logits_adjoint", "float32", {"direction": "t2b"}, {}),
    ("scan.gspn_logits_adjoint", "float32", {"direction": "t2b"}, {"checkpoint": 32}),
    ("scan.gspn_logits_adjoint", "bfloat16", {"direction": "r2l", "chunk": 3}, {"checkpoint": 32}),
    ("scan.gspn2d", "float32", {"skip": True, "chunk": 7}, {"together": 4}),
    ("scan.gspn2d", "float16", {}, {}),
]


def lowered(program, **knobs):
    point = sweep.Knobs(**knobs)
    return Lowered(program, "sweep", point, sweep.schedule(program, TARGET, point))


@pytest.fixture(scope="module")
def kernels():
    made = [lowered(build(name, dtype, attrs), **knobs) for name, dtype, attrs, knobs in CASES]
    with ExitStack() as keep:
        functions = compile_many(made, TARGET, keep, lambda _: None)
        yield [(k.program, functions[id(k)]) for k in made]


AWKWARD = st.sampled_from((1, 2, 3, 8, 15, 16, 17, 31, 33, 48, 67))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, len(CASES) - 1), st.integers(1, 3), st.sampled_from((1, 2, 3, 17)), AWKWARD, AWKWARD, st.booleans(),
    st.integers(0, 2**20),
)  # fmt: skip
def test_fused_scans_equal_their_oracles(kernels, which, n, c, h, w, shared, seed):
    program, function = kernels[which]
    c = min(c, 3) if h * w > 600 else c
    sizes = {"N": n, "C": c, "H": h, "W": w, "G": 1 if shared else c}
    for name, verdict in _verdicts(program, function, sizes, generator(seed, "sweep")).items():
        assert verdict.ok, (name, CASES[which], sizes, verdict)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2), AWKWARD, AWKWARD, st.booleans(), st.integers(0, 2**20))
def test_states_made_again_between_checkpoints_give_the_same_gradients(kernels, c, h, w, shared, seed):
    """To the bit, whatever the sizes: the same arithmetic in the same order, and the same a second time."""
    sizes = {"N": 1, "C": c, "H": h, "W": w, "G": 1 if shared else c}
    (program, kept), (_, again) = kernels[3], kernels[4]
    inputs = draw_inputs(program, sizes, generator(seed, "checkpoint"))
    found = []
    for function in (kept, again, again):
        shapes = [[dm.evaluate(s, sizes) for s in t.shape] for t in program.results]
        found.append([torch.full(s, torch.nan) for s in shapes])
        function(*(tvm_ffi.from_dlpack(t) for t in (*inputs.values(), *found[-1])))
    assert all(torch.equal(a, b) and torch.equal(a, e) for a, b, e in zip(*found, strict=True))


def test_planted_mutations_are_caught():
    made = []
    for mutate in MUTATIONS.values():
        for direction in ("b2t", "l2r"):
            program = build("scan.gspn_logits", "float32", {"direction": direction, "chunk": 7})
            scans = tuple(mutate(s) for s in program.sweep.scans)
            made.append(lowered(replace(program, sweep=replace(program.sweep, scans=scans))))
    sizes = {"N": 2, "C": 3, "H": 19, "W": 33, "G": 3}
    with ExitStack() as keep:
        functions = compile_many(made, TARGET, keep, lambda _: None)
        for i, k in enumerate(made):
            ok = all(v.ok for v in _verdicts(k.program, functions[id(k)], sizes, generator(i, "mutant")).values())
            assert ok == (list(MUTATIONS)[i // 2] == "none"), (list(MUTATIONS)[i // 2], k.program.attrs)
