"""Which machine code runs on which device, and what is said where there is none; no CUDA needed."""

from __future__ import annotations

import pytest

from treadle.errors import ArgumentError, DeviceError
from treadle.runtime import cuda, load
from treadle.runtime.devices import _rank, architectures, cuda_index, fits
from treadle.runtime.manifest import Library


@pytest.mark.parametrize(
    ("arch", "capability", "runs"),
    [
        ("sm_90a", (9, 0), True),
        ("sm_90a", (9, 1), False),
        ("sm_90a", (10, 0), False),
        ("sm_90", (9, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_86", (8, 0), False),
        ("sm_80", (9, 0), False),
        ("sm_100a", (10, 0), True),
        ("sm_100a", (10, 3), False),
        ("sm_100f", (10, 3), True),
        ("sm_103f", (10, 0), False),
        ("gfx90a", (9, 0), False),
    ],
)
def test_what_runs_where(arch: str, capability: tuple[int, int], runs: bool) -> None:
    assert fits(arch, capability) is runs


def test_the_most_specific_code_that_fits_is_taken() -> None:
    assert max(["sm_90", "sm_80", "sm_90a"], key=_rank) == "sm_90a"
    assert max(["sm_86", "sm_80"], key=_rank) == "sm_86"


def test_names() -> None:
    assert architectures(Library("cuda:sm_80,sm_90a", "lib/x.so")) == ["sm_80", "sm_90a"]
    assert architectures(Library("cpu:x86-64-v4", "lib/x.so")) == []
    assert [cuda_index(name) for name in ("cuda", "cuda:0", "cuda:7", "cpu")] == [0, 0, 7, None]


def test_a_cpu_session_takes_no_stream(tiny_built: object) -> None:
    with load(tiny_built) as session, pytest.raises(ArgumentError, match="stream= is for CUDA sessions"):  # type: ignore[arg-type]
        session.run(x=None, stream=0)


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda._driver.cache_clear()
    monkeypatch.setattr(cuda, "DRIVER", "libcuda.so.0")  # which no machine has
    said = r"no NVIDIA driver on this machine: given libcuda.so.0: .*Load the bundle with device='cpu', or install the driver"
    with pytest.raises(DeviceError, match=said):
        cuda.find_device(0)
    cuda._driver.cache_clear()


def test_a_machine_without_a_cuda_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.load_runtime.cache_clear()
    monkeypatch.setattr(cuda, "RUNTIME", "libcudart.so.0")
    with pytest.raises(DeviceError, match=r"no CUDA runtime: .*pip install 'treadle\[cuda\]'"):
        cuda.runtime_version()
    cuda.load_runtime.cache_clear()
