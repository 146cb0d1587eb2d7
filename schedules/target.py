"""Targets: the machines that Programs are compiled for, with the facts a schedule may use.

cpu                    x86-64-v3; cpu:native and cpu:x86-64-v4 on request
cuda:sm_90a[,sm_80]    one fat binary for the architectures named
emulate:sm_90a         the CUDA schedules with their thread loops made serial, run on the CPU
ptx:sm_90a             the CUDA code as nvcc compiled it, run on the CPU by the PTX machine
"""

from __future__ import annotations

from dataclasses import dataclass

from treadle.errors import ArgumentError, UnknownNameError


@dataclass(frozen=True)
class Cpu:
    """An x86-64 level: what LLVM may emit, and what the running processor must therefore have."""

    level: str
    mcpu: str
    features: tuple[str, ...]
    #: float32 elements in one vector register, and the number of such registers
    lanes: int
    registers: int


_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

CPUS = {
    "x86-64-v3": Cpu("x86-64-v3", "x86-64-v3", _V3, 8, 16),
    "x86-64-v4": Cpu("x86-64-v4", "x86-64-v4", _V4, 16, 32),
}
DEFAULT_CPU = "x86-64-v3"


@dataclass(frozen=True)
class Gpu:
    """A CUDA architecture, with the figures of the accelerator it is best known by (for floors, never for correctness)."""

    arch: str
    device: str
    sms: int
    #: dynamic shared memory that one block may ask for, bytes; 32-bit registers of a multiprocessor
    shared_bytes: int
    registers: int
    #: peak GB/s of device memory, and dense TFLOP/s of bf16 tensor cores and of float32
    bandwidth: int
    bf16_tflops: int
    fp32_tflops: int
    features: frozenset[str]


_AMPERE = frozenset({"cp.async", "ldmatrix", "mma.f16", "mma.bf16"})
_HOPPER = _AMPERE | {"mbarrier", "tma", "wgmma", "cluster", "setmaxnreg", "fp8"}
_BLACKWELL = (_HOPPER - {"wgmma"}) | {"tcgen05"}

GPUS = {
    g.arch: g
    for g in (
        Gpu("sm_80", "A100", 108, 163 << 10, 65536, 2039, 312, 19, _AMPERE),
        Gpu("sm_90a", "H100 SXM", 132, 227 << 10, 65536, 3350, 989, 67, _HOPPER),
        Gpu("sm_100a", "B200", 148, 227 << 10, 65536, 8000, 2250, 80, _BLACKWELL),
    )
}

#: Architectures whose PTX the machine of codegen/ptxsim runs.
MACHINE = ("sm_80", "sm_90a")


@dataclass(frozen=True)
class Target:
    """A parsed target name. `cpu` describes the host; `gpus` the architectures of a cuda, emulate or ptx target."""

    name: str
    kind: str
    cpu: Cpu
    gpus: tuple[Gpu, ...] = ()

    @staticmethod
    def parse(name: str) -> Target:
        kind, _, detail = name.partition(":")
        if kind == "cpu":
            level = _native_level() if detail == "native" else detail or DEFAULT_CPU
            if level not in CPUS:
                raise UnknownNameError.unknown("target", name, known_targets())
            return Target("cpu" if level == DEFAULT_CPU else f"cpu:{level}", kind, CPUS[level])
        archs = sorted(set(filter(None, detail.split(","))), key=lambda a: (len(a), a))
        if kind not in ("cuda", "emulate", "ptx") or not archs or (kind != "cuda" and len(archs) > 1):
            raise UnknownNameError.unknown("target", name, known_targets())
        for arch in archs:
            if arch not in (known := MACHINE if kind == "ptx" else GPUS):
                raise UnknownNameError.unknown("architecture", arch, known, where=f"target {name}")
        return Target(f"{kind}:{','.join(archs)}", kind, CPUS[DEFAULT_CPU], tuple(GPUS[a] for a in archs))

    @property
    def code(self) -> Target:
        """What is compiled for it: of a ptx target the same as for the GPU."""
        return Target.parse(f"cuda:{self.gpus[0].arch}") if self.kind == "ptx" else self

    def lacks(self, feature: str) -> list[str]:
        """The architectures of this target that have not got an instruction."""
        return [g.arch for g in self.gpus if feature not in g.features]


def known_targets() -> list[str]:
    cpus = ["cpu", "cpu:native", *(f"cpu:{level}" for level in CPUS)]
    return [*cpus, *(f"{kind}:{arch}" for kind in ("cuda", "emulate") for arch in GPUS), *(f"ptx:{arch}" for arch in MACHINE)]


def _native_level() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            flags = set(next(line for line in f if line.startswith("flags")).split())
    except (OSError, StopIteration):
        flags = set()
    for level in reversed(CPUS):
        if flags.issuperset(CPUS[level].features):
            return level
    raise ArgumentError("cpu:native", given="a processor below x86-64-v3", expected="AVX2, FMA, F16C and BMI")
