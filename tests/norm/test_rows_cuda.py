"""The CUDA schedules of layer_norm, mean_pool and to_planes, emulated: threads one after another on the CPU, and compiled."""

import ctypes
import mmap
import os
import re
from dataclasses import fields
from functools import cache

import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm.ir import IRModule

from treadle.codegen import cuda as codegen
from treadle.codegen import nvcc, ptxas
from treadle.codegen.lower import lower
from treadle.errors import ArgumentError, ToolchainError
from treadle.ir import build
from treadle.schedules import cuda, cuda_moves
from treadle.schedules.image.mean_pool import block_rows as mean_pool
from treadle.schedules.image.to_planes import tile as to_planes
from treadle.schedules.norm.layer_norm import block_rows as layer_norm
from treadle.schedules.serial import serial
from treadle.schedules.target import Target

EMULATED, CUDA = Target.parse("emulate:sm_90a"), Target.parse("cuda:sm_90a")
NAMES = ("norm.layer_norm", "image.mean_pool", "image.to_planes")
DTYPES = ("float32", "float16", "bfloat16")
MANY = (
    ("norm.layer_norm", {"R": 70001, "C": 1}),
    ("image.mean_pool", {"N": 70001, "C": 1, "P": 1}),
    ("image.to_planes", {"N": 70001, "P": 1, "C": 1}),
)
RAGGED = (
    ("norm.layer_norm", {"R": 3, "C": 37}),
    ("image.mean_pool", {"N": 1, "C": 3, "P": 37}),
    ("image.to_planes", {"N": 1, "P": 37, "C": 13}),
)
SIZES = st.sampled_from((1, 2, 3, 7, 8, 16, 31, 37, 64, 97, 130, 257, 1152))
SMALL = st.sampled_from((1, 2, 3, 5, 17))
run = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))


def space(program, target=EMULATED):
    (found,) = cuda.spaces(program, target)
    return found


@cache
def legal_points(dtype, name, dims=()):
    return list(space(build(name, dtype, dims=dict(dims))).legal())


@cache
def emulated(name, dtype, dims, point):
    program = build(name, dtype, dims=dict(dims))
    return program, serial(space(program).lower(point))


def covering(found, name, dtype, dims=()):
    """A few legal points that between them take every choice of every knob that any legal point takes."""
    points, chosen, seen = found(dtype, name, dims), [], set()
    for point in points:
        new = {(k.name, getattr(point, k.name)) for k in fields(point)} - seen
        if new:
            chosen.append(point)
            seen |= new
    return chosen


def draw_sizes(data, name):
    if name == "norm.layer_norm":
        return {"R": data.draw(SMALL), "C": data.draw(SIZES)}
    first, second = ("C", "P") if data.draw(st.booleans()) else ("P", "C")
    return {"N": data.draw(st.sampled_from((1, 3))), first: data.draw(SMALL), second: data.draw(SIZES)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
@run
@given(data=st.data())
def test_any_size_and_point(held, name, dtype, data):
    sizes = draw_sizes(data, name)
    bound = tuple((n, s) for n, s in sizes.items() if data.draw(st.booleans()))
    point = data.draw(st.sampled_from(legal_points(dtype, name, bound)))
    program, func = emulated(name, dtype, bound, point)
    assert held(program, func, sizes).ok


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_of_every_knob(held, name):
    sizes = {"R": 5, "C": 130} if name == "norm.layer_norm" else {"N": 2, "C": 5, "P": 130}
    for number, point in enumerate(covering(legal_points, name, "float32")):
        program, func = emulated(name, "float32", (), point)
        assert held(program, func, sizes, seed=number).ok, point


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_held_in_registers(held, dtype):
    bound = (("C", 1152),)
    point = space(build("norm.layer_norm", dtype, dims=dict(bound))).point()
    assert point.held and point.access == 16
    program, func = emulated("norm.layer_norm", dtype, bound, point)
    assert held(program, func, {"R": 7, "C": 1152}).ok


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("norm.layer_norm", {"R": 70001, "C": 1}),
        ("image.mean_pool", {"N": 70001, "C": 1, "P": 1}),
        ("image.to_planes", {"N": 70001, "P": 1, "C": 1}),
    ],
)
def test_more_rows_than_a_grid_has_along_y(held, name, sizes):
    program, func = emulated(name, "float32", (), space(build(name)).point())
    assert held(program, func, sizes).ok


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_illegal_points_are_refused_with_a_sentence(name, dtype):
    found = space(build(name, dtype, dims={"C": 37} if name == "norm.layer_norm" else None))
    refused = [p for p in found.points() if found.refusals(p)]
    assert refused and all(len(reason.split()) > 5 for p in refused for reason in found.refusals(p))
    with pytest.raises(ArgumentError, match="refuses this point"):
        found.point({k.name: getattr(refused[0], k.name) for k in fields(refused[0])})


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("norm.layer_norm", {"R": 3, "C": 37}),
        ("image.mean_pool", {"N": 1, "C": 3, "P": 37}),
        ("image.to_planes", {"N": 1, "P": 37, "C": 13}),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_beyond_a_tensor_is_touched(name, sizes, dtype):
    program, func = emulated(name, dtype, (), space(build(name, dtype)).point())
    assert runs_before_forbidden_pages(program, func, sizes) == 0


def runs_before_forbidden_pages(program, func, sizes):
    """The exit status of a child that runs a kernel whose tensors all end where a page begins that nobody may touch."""
    import torch

    from treadle.ir import dims as dm

    module = IRModule({"kernel": func.with_attr("global_symbol", "kernel")})
    kernel = tvm.compile(module, target={"kind": "llvm", "mcpu": "x86-64-v3"}).mod
    dtype, tensors, pages = getattr(torch, program.dtype), [], []
    for tensor in (*program.args, *program.results):
        shape = torch.Size(dm.evaluate(s, {**program.bound, **sizes}) for s in tensor.shape)
        size = shape.numel() * dtype.itemsize
        room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        page = mmap.mmap(-1, room + mmap.PAGESIZE)
        forbidden = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page)) + room)
        assert ctypes.CDLL(None).mprotect(forbidden, mmap.PAGESIZE, 0) == 0
        pages.append(page)
        tensors.append(torch.frombuffer(page, dtype=dtype, count=shape.numel(), offset=room - size).view(shape))
    child = os.fork()
    if not child:
        kernel["kernel"](*tensors)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def broken(held, monkeypatch, name, sizes, owner, attribute, replacement):
    """Whether a case that holds fails once one piece of the schedule is replaced."""
    program = build(name)
    assert held(program, serial(space(program).lower(space(program).point())), sizes).ok
    monkeypatch.setattr(owner, attribute, replacement)
    return not held(program, serial(space(program).lower(space(program).point())), sizes).ok


def test_a_lost_partial_sum_is_caught(held, monkeypatch):
    whole = cuda_moves.TeamSum._add
    lost = staticmethod(lambda words, first, count, stride: whole(words, first, count - 1, stride))
    assert broken(held, monkeypatch, "norm.layer_norm", {"R": 9, "C": 1024}, cuda_moves.TeamSum, "_add", lost)


def test_a_dropped_column_is_caught(held, monkeypatch):
    short = lambda self, lane: self._column(lane) < self.walk.features - 1  # noqa: E731
    assert broken(held, monkeypatch, "norm.layer_norm", {"R": 9, "C": 37}, layer_norm._Place, "exists", short)


def test_a_dropped_group_is_caught(held, monkeypatch):
    whole = mean_pool._groups
    short = lambda *given: (whole(*given)[0], whole(*given)[1] - 1)  # noqa: E731
    assert broken(held, monkeypatch, "image.mean_pool", {"N": 2, "C": 5, "P": 37}, mean_pool, "_groups", short)


def test_a_tile_that_is_not_turned_is_caught(held, monkeypatch):
    whole = to_planes._Rows.write
    straight = lambda self, own, lanes, wide, take: whole(self, own, lanes, wide, lambda row, column: take(column, row))  # noqa: E731
    assert broken(held, monkeypatch, "image.to_planes", {"N": 1, "P": 130, "C": 70}, to_planes._Rows, "write", straight)


def test_compiled_for_hopper_without_spills_and_with_wide_accesses():
    try:
        nvcc.find()
    except ToolchainError as missing:
        pytest.skip(str(missing))
    programs = [build(n, d, dims=dims) for n in NAMES for d, dims in (("bfloat16", {"C": 1152}), ("float32", None))]
    made = codegen.assemble([lower(p, CUDA) for p in programs], CUDA)
    assert len(made.kernels) == len(programs)
    ptxas.refuse_spills(made.usage, made.kernels)
    for kernel in made.kernels:
        text = made.entry("sm_90a", kernel.name)
        assert re.search(r"ld\.global[.\w]*\.v4", text), kernel
        assert "mean_pool" in kernel.name or re.search(r"st\.global[.\w]*\.v4", text), kernel
