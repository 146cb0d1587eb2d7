"""Shared by all tests: a cache of their own, the same for all workers of a run; and kernels held against their oracles."""

import importlib
import os
from functools import cache

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "treadle-cache"
    os.environ["TREADLE_CACHE_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def held():
    """held(program, func, sizes): the Verdict of a lowered function, run in this process, against the Program's oracle.

    Enough inputs are drawn to compare some hundred elements: the tolerance weighs the worst of our rounding errors against
    the worst of the oracle's in float32, and one element alone would weigh chance against chance.
    """
    import torch
    import tvm
    from tvm.ir import IRModule

    from treadle.cases import draw_inputs, generator
    from treadle.dtypes import dtype as find_dtype
    from treadle.ir import dims as dm
    from treadle.ir.oracles.check import compare

    @cache
    def compiled(func):
        module = IRModule({"kernel": func.with_attr("global_symbol", "kernel")})
        return tvm.compile(module, target={"kind": "llvm", "mcpu": "x86-64-v3"}).mod["kernel"]

    def hold(program, func, sizes, seed=0):
        oracle = importlib.import_module(f"treadle.ir.oracles.{program.name}").oracle
        (result,) = program.results
        sizes = {**program.bound, **sizes}
        shape = [dm.evaluate(s, sizes) for s in result.shape]
        dtype = find_dtype(program.dtype)
        found = []
        for draw in range(-(-128 // torch.Size(shape).numel())):
            inputs = draw_inputs(program, sizes, generator(seed, program.name, draw))
            y = torch.full(shape, torch.nan, dtype=getattr(torch, program.dtype))
            compiled(func)(*inputs.values(), y)
            found.append(
                (y, *(oracle(dict(program.attrs), t, **inputs)[result.op.name] for t in (torch.float64, torch.float32)))
            )
        return compare(*(torch.stack(list(ts)) for ts in zip(*found, strict=True)), dtype.eps)

    return hold


@pytest.fixture(scope="session")
def mismatched():
    """mismatched(program, func): whether the check of random cases finds a function, lowered for a CPU, out of tolerance."""
    from contextlib import ExitStack
    from dataclasses import replace

    from treadle.batch import compile_many
    from treadle.check import held
    from treadle.codegen.lower import lower
    from treadle.schedules.target import Target

    cpu = Target.parse("cpu")

    def found(program, func):
        kernel = replace(lower(program, cpu), func=func)
        with ExitStack() as keep:
            function = compile_many([kernel], cpu, keep, lambda _: None)[id(kernel)]
            return any(held(kernel, function, seed=0, case=case)[1] for case in range(3))

    return found
