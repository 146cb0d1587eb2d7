"""The same kernels with a bug each: every one is caught, by the right hazard, at a line that its source marks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from treadle.codegen.ptxsim.hazards import HazardError

from . import kernels
from .cases import CASES, Case
from .on_machine import Machine
from .test_kernels import check

#: What the machine does not find, and says so in docs/ptx.md.
MISSED = {("reduce", 6): "a fence that is missing on the reader's side, between its atomic operation and what it reads then"}


def _planted() -> Iterator[Any]:
    for case in CASES.values():
        for bug in case.bugs:
            why = MISSED.get((case.source, bug))
            marks = [pytest.mark.xfail(strict=True, reason=why)] if why else []
            yield pytest.param(case, bug, id=f"{case.source}-{bug}", marks=marks)


def caught(case: Case, bug: int, seed: int) -> None:
    expected = kernels.marks(case.source)[bug]
    if any(kind == "Numbers" for kind, _ in expected):
        with pytest.raises(AssertionError, match="differ"):
            for result in case.run(Machine(case.source, bug, seed)):
                check(result)
        return
    with pytest.raises(HazardError) as found:
        for _ in case.run(Machine(case.source, bug, seed)):
            pass
    kind, place = type(found.value).__name__, found.value.place
    assert place is not None
    # Of an instruction from ptx.h, the line that asked for it.
    lines = re.findall(rf"{case.source}\.cu:\d+", place.source)
    assert any((kind, line) in expected for line in lines), found.value


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case,bug", list(_planted()))
def test_caught(case: Case, bug: int, seed: int) -> None:
    caught(case, bug, seed)


@pytest.mark.long
@pytest.mark.parametrize("case,bug", list(_planted()))
def test_caught_in_twenty_orders(case: Case, bug: int) -> None:
    for seed in range(3, 23):
        if (case.source, bug) == ("reduce", 5):  # no race in those orders in which the block that sums comes last indeed
            with suppress(pytest.fail.Exception):
                caught(case, bug, seed)
        else:
            caught(case, bug, seed)


def test_every_bug_has_a_case() -> None:
    planted = {(name, bug) for name in kernels.NAMES for bug in kernels.marks(name)}
    assert planted == {(case.source, bug) for case in CASES.values() for bug in case.bugs}
