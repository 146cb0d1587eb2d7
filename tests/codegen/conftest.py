"""Tiny Programs of the tests' own, each with a hand-written mapping onto CUDA threads."""

import sys
from dataclasses import dataclass

import pytest
from tvm import te
from tvm.script import tirx as T

from treadle.codegen.lower import Lowered
from treadle.ir.program import Builder, Program, define
from treadle.schedules import moves
from treadle.schedules.target import Target

BOTH = Target.parse("cuda:sm_80,sm_90a")
HOPPER = Target.parse("cuda:sm_90a")


@dataclass(frozen=True)
class Knobs:
    threads: int = 256


def program(name, body):
    """A Program outside the registry: what `ir.build` does, for a definition at hand."""
    made = define(name, math="", source="")(body)
    b = Builder(made, "float32", {}, {})
    results = body(b)
    return Program(name, "float32", {}, b.dims, b.bound, tuple(b.args), tuple(results), None, b.flops, b.exps, made)


def unary(b):
    n = b.dim("N")
    x = b.arg("x", [n])
    b.cost(flops=n, exps=n)
    return [te.compute((n,), lambda i: x[i] / (te.exp(-x[i]) + 1.0), "y")]


def turned(b):
    n, m = b.dim("N"), b.dim("M")
    x = b.arg("x", [n, 32, m, 32])
    return [te.compute((m, 32, n, 32), lambda i, k, j, h: x[j, h, i, k], "y")]


def elementwise():
    p = program("test.swish", unary)
    sch = moves.begin(p, p.results)
    block, thread = sch.split(sch.get_loops(sch.get_sblock("y"))[0], [None, 256])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    return Lowered(p, "flat", Knobs(), sch.mod["main"])


def transpose():
    """32 x 32 tiles through shared memory."""
    p = program("test.transpose", turned)
    sch = moves.begin(p, p.results)
    y = sch.get_sblock("y")
    bi, ti, bj, tj = sch.get_loops(y)
    sch.reorder(bi, bj, ti, tj)
    copy = sch.cache_read(y, 0, "shared")
    sch.compute_at(copy, bj)
    for loop, name in ((bi, "blockIdx.y"), (bj, "blockIdx.x"), (ti, "threadIdx.y"), (tj, "threadIdx.x")):
        sch.bind(loop, name)
    for loop, name in zip(sch.get_loops(copy)[-2:], ("threadIdx.y", "threadIdx.x"), strict=True):
        sch.bind(loop, name)
    return Lowered(p, "tiles", Knobs(1024), sch.mod["main"])


def unbound():
    p = program("test.unbound", unary)
    return Lowered(p, "plain", Knobs(), moves.begin(p, p.results).mod["main"])


def by_hand(name, func):
    p = program(name, unary)
    return Lowered(p, "by_hand", Knobs(), func.with_attr("global_symbol", p.symbol))


@T.prim_func(s_tir=True)
def _local_array(a: T.handle, b: T.handle):
    T.func_attr({"tirx.noalias": True})
    n = T.int64()
    x = T.match_buffer(a, (n,), "float32", align=16)
    y = T.match_buffer(b, (n,), "float32", align=16)
    for i in T.thread_binding((n + 63) // 64, thread="blockIdx.x"):
        for j in T.thread_binding(64, thread="threadIdx.x"):
            with T.sblock("spilling"):
                kept = T.sblock_alloc_buffer((64,), "float32", scope="local")
                for k in range(64):
                    kept[k] = x[(i * 64 + k) % n]
                if i * 64 + j < n:
                    y[i * 64 + j] = kept[(i * 7 + j) % 64]


@T.prim_func(s_tir=True)
def _symbolic_stack(a: T.handle, b: T.handle):
    T.func_attr({"tirx.noalias": True})
    n = T.int64()
    x = T.match_buffer(a, (n,), "float32", align=16)
    y = T.match_buffer(b, (n,), "float32", align=16)
    for i in T.thread_binding(n, thread="blockIdx.x"):
        with T.sblock("root"):
            kept = T.sblock_alloc_buffer((n,), "float32", scope="local")
            for k in range(n):
                kept[k] = x[k]
            y[i] = kept[(i * 7) % n]


@T.prim_func(s_tir=True)
def _unknown_function(a: T.handle, b: T.handle):
    T.func_attr({"tirx.noalias": True})
    n = T.int64()
    x = T.match_buffer(a, (n,), "float32", align=16)
    y = T.match_buffer(b, (n,), "float32", align=16)
    for i in T.thread_binding(n, thread="blockIdx.x"):
        y[i] = T.call_extern("float32", "no_such_function", x[i])


def local_array():
    return by_hand("test.local_array", _local_array)


def symbolic_stack():
    return by_hand("test.symbolic_stack", _symbolic_stack)


def unknown_function():
    return by_hand("test.unknown_function", _unknown_function)


@pytest.fixture(scope="session")
def kernels():
    """This module's functions: test files are no package, and cannot import it."""
    return sys.modules[__name__]
