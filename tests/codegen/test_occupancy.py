"""Occupancy, held against NVIDIA's own calculator, which is a C++ header."""

import itertools
import subprocess

import pytest

from treadle.codegen import cpu, nvcc
from treadle.codegen.occupancy import occupancy
from treadle.errors import ToolchainError
from treadle.schedules.target import GPUS

CALCULATOR = """
#include <cuda_occupancy.h>
#include <cstdio>
int main() {
  int major, minor, shared, threads, registers, bytes;
  while (std::scanf("%d %d %d %d %d %d", &major, &minor, &shared, &threads, &registers, &bytes) == 6) {
    cudaOccDeviceProp p{};
    p.computeMajor = major, p.computeMinor = minor, p.maxThreadsPerBlock = 1024, p.maxThreadsPerMultiprocessor = 2048;
    p.regsPerBlock = p.regsPerMultiprocessor = 65536, p.warpSize = 32, p.numSms = 1;
    p.sharedMemPerBlock = 49152, p.sharedMemPerBlockOptin = shared, p.reservedSharedMemPerBlock = 1024;
    p.sharedMemPerMultiprocessor = shared + 1024;
    cudaOccFuncAttributes a{};
    a.maxThreadsPerBlock = 1024, a.numRegs = registers;
    a.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN, a.maxDynamicSharedSizeBytes = shared;
    cudaOccDeviceState s{};
    cudaOccResult r{};
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &a, &s, threads, bytes)) return 1;
    std::printf("%d\\n", r.activeBlocksPerMultiprocessor);
  }
}
"""


def test_as_the_vendor_counts_it(tmp_path):
    try:
        include = nvcc.find().include
    except ToolchainError as missing:
        pytest.skip(f"no CUDA headers anywhere: {missing}")
    (tmp_path / "c.cc").write_text(CALCULATOR)
    subprocess.run([cpu.compiler()[0], "-O1", "-w", f"-I{include}", "c.cc", "-o", "c"], cwd=tmp_path, check=True)
    cases = [
        (gpu, threads, registers, shared)
        for gpu in GPUS.values()
        for threads, registers, shared in itertools.product(
            (32, 64, 96, 128, 256, 384, 512, 1024), (8, 10, 32, 33, 40, 64, 65, 96, 128, 168, 255),
            (0, 1, 4096, 16 << 10, 48 << 10, 100_000, gpu.shared_bytes),
        )
    ]  # fmt: skip
    asked = ""
    for g, threads, registers, shared in cases:
        number = int(g.arch[3:].rstrip("a"))
        asked += f"{number // 10} {number % 10} {g.shared_bytes} {threads} {registers} {shared}\n"
    told = subprocess.run([tmp_path / "c"], input=asked, capture_output=True, text=True, check=True).stdout.split()
    ours = [occupancy(g, *case) for g, *case in cases]
    assert [o.blocks for o in ours] == [int(t) for t in told]
    assert {o.limited_by for o in ours} == {"blocks", "warps", "registers", "shared memory"}
    assert all(o.warps <= 64 and o.share == round(o.warps / 64, 4) for o in ours)
