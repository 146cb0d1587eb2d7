"""The cache keys of libraries hold what goes into every library: compilers, flags, and our own C++ files."""

from __future__ import annotations

import pytest

from treadle.codegen import cpu, cuda, nvcc
from treadle.codegen.cache import digest


@pytest.mark.parametrize(("file", "changes"), [("session.h", (True, True)), ("pool.cc", (True, False))])
def test_a_changed_support_file_changes_the_keys(monkeypatch, file, changes):
    """CUDA libraries hold the headers alone; and no key forgets them, for whoever calls key() has them."""
    monkeypatch.setattr(nvcc, "find", lambda: nvcc.Nvcc("nvcc", "13.0.88", None, None))
    before = digest(cpu.key()), digest(cuda.key())
    sources = cpu.support_sources()
    monkeypatch.setattr(cpu, "support_sources", lambda: {**sources, file: sources[file] + b"\n"})
    after = digest(cpu.key()), digest(cuda.key())
    assert tuple(one != other for one, other in zip(before, after, strict=True)) == changes
