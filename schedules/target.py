"""Targets: the machines that Programs are compiled for, with the facts a schedule may use."""

from __future__ import annotations

from dataclasses import dataclass

from treadle.errors import ArgumentError, ToolchainError, UnknownNameError


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
class Target:
    """A parsed target name. `cpu` is the portable x86-64-v3; `cpu:native` resolves to the best level of this machine."""

    name: str
    cpu: Cpu

    @staticmethod
    def parse(name: str) -> Target:
        kind, _, detail = name.partition(":")
        if kind == "cuda":
            raise ToolchainError(
                "this release generates no CUDA code", given=name, expected="cpu", hint="compile with --target cpu"
            )
        if kind != "cpu":
            raise UnknownNameError.unknown("target", name, known_targets())
        level = _native_level() if detail == "native" else detail or DEFAULT_CPU
        if level not in CPUS:
            raise UnknownNameError.unknown("target", name, known_targets())
        return Target("cpu" if level == DEFAULT_CPU else f"cpu:{level}", CPUS[level])


def known_targets() -> list[str]:
    return ["cpu", "cpu:native", *(f"cpu:{level}" for level in CPUS)]


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
