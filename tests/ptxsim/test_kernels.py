"""Our own CUDA kernels on the PTX machine, each against numpy, in several orders of its warps: no false alarm."""

from __future__ import annotations

import numpy as np
import pytest

from treadle.codegen import nvcc
from treadle.errors import ToolchainError

from . import kernels
from .cases import CASES, Case, Result
from .on_machine import Machine


def check(result: Result) -> None:
    """Every element equal, or within the bound that the case states."""
    got, expected = result.got, result.expected
    assert got.shape == expected.shape, result.name
    if result.within is None:
        same = (got == expected) | ((got != got) & (expected != expected))
    else:
        same = np.abs(got.astype(np.float64) - expected) <= result.within
    assert same.all(), f"{result.name}: {np.count_nonzero(~same)} of {same.size} differ"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_right(case: Case, seed: int) -> None:
    for result in case.run(Machine(case.source, seed=seed)):
        check(result)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_right_in_twenty_orders(case: Case) -> None:
    for seed in range(3, 23):
        for result in case.run(Machine(case.source, seed=seed)):
            check(result)


def test_every_kernel_has_a_case() -> None:
    used = set()

    class Names(Machine):
        def launch(self, kernel, *args, **options):
            used.add(kernel)

    for case in CASES.values():
        for _ in case.run(Names(case.source)):
            pass
    assert used == {f.name for name in kernels.NAMES for f in kernels.module(name).functions.values() if f.entry}


@pytest.mark.parametrize("name", kernels.NAMES)
def test_the_ptx_is_of_these_sources(name: str) -> None:
    for bug in kernels.builds(name):
        with kernels.file(name, bug).open() as text:
            first = text.readline()
        assert first == kernels.head(name, first.split()[2]), f"run python tests/ptxsim/kernels.py {name}"


@pytest.mark.parametrize("name", ["reduce", "tma_store", *(pytest.param(n, marks=pytest.mark.long) for n in kernels.NAMES)])
def test_nvcc_makes_the_same_ptx(name: str) -> None:
    made_by = kernels.file(name).read_text().split(maxsplit=3)[2]
    try:
        here = nvcc.find().version
    except ToolchainError as none:
        pytest.skip(f"no nvcc on this machine to compile with: {none}")
    if here != made_by:
        pytest.skip(f"the PTX was made by nvcc {made_by}, and this machine has {here}")
    for bug in kernels.builds(name):
        assert kernels.code(kernels.compiled(name, bug)) == kernels.code(kernels.file(name, bug).read_text())
