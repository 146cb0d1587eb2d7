"""What a C++ user pays: memory that stays flat over many loads, and figures of size and time, printed."""

from __future__ import annotations

from pathlib import Path

import pytest
import tvm_ffi


def megabytes(*paths: Path) -> str:
    files = [f for path in paths for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()]
    return f"{sum(f.stat().st_size for f in files) / 1e6:.1f} MB"


@pytest.mark.parametrize("loads", [500, pytest.param(5000, marks=pytest.mark.long)])
def test_memory_is_flat_over_loads(programs, examples, small, run, capsys, loads):
    done = run(programs / "cycle", small / "good.treadle", small / "x.raw", loads, 20_000)
    assert done.returncode == 0, done.stderr
    early, late, load, call = map(float, done.stdout.split())
    ffi, bundle = Path(tvm_ffi.libinfo.find_libtvm_ffi()), examples / "tiny.treadle"
    with capsys.disabled():
        print(f"\n{loads} loads of a small bundle: {early:.0f} kB resident after a tenth, {late:.0f} kB after all; {load:.0f} us a load "
              f"with its run, {call:.0f} ns a call, kernels included")  # fmt: skip
        print(f"shipped: program {megabytes(examples / 'encode')}, libtvm_ffi {megabytes(ffi)}, cgspn:tiny {megabytes(bundle)}, "
              f"of it weights {megabytes(bundle / 'weights.safetensors')}")  # fmt: skip
    # An allocator's slack is a few pages; 60 bytes lost by each of 5,000 loads are more than this.
    assert late - early < 256
