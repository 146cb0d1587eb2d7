"""treadle doctor"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from treadle.cli.output import Reply, table, working
from treadle.cli.units import size
from treadle.errors import TreadleError
from treadle.runtime.cpu import cpu_features
from treadle.settings import Settings, settings

#: apache-tvm 0.27 crashes in its own JSON printer with a newer ffi: the two are one pin.
TVM_PIN = ("0.27.0.post1", "0.1.14.post1")

_PACKAGES = ("treadle", "apache-tvm", "apache-tvm-ffi", "numpy", "safetensors", "ml-dtypes", "torch", "pillow", "scikit-image")
_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16")


class Finding(NamedTuple):
    """One line of the report; a `problem` is what has to be done about it."""

    what: str
    found: str
    problem: str | None = None


def doctor() -> Reply:
    """Look at this installation and machine; exit 1 where something stands in the way."""
    with working("looking at this installation"):
        findings = [*_versions(), *_machine(), _toolchain(), *_cache(), *_settings()]
    rows = [("!" if f.problem else "ok", f.what, f.found, f.problem) for f in findings]
    sound = not any(f.problem for f in findings)
    shown = [table(["", "what", "found", "to do"], rows), "all is well" if sound else "some things need attention"]
    return Reply({"ok": sound, "findings": [f._asdict() for f in findings]}, shown, 0 if sound else 1)


def _versions() -> list[Finding]:
    have = {name: _version(name) for name in _PACKAGES}
    found = [Finding("python", platform.python_version())]
    found += [Finding(name, v or "not installed") for name, v in have.items()]
    pair = (have["apache-tvm"], have["apache-tvm-ffi"])
    if pair[0] is None:
        return [*found, Finding("compiler extra", "not installed: this machine can load and run bundles")]
    pin = "apache-tvm=={} apache-tvm-ffi=={}".format(*TVM_PIN)
    return [*found, Finding("ffi pin", f"{pair[0]} with ffi {pair[1]}", None if pair == TVM_PIN else f"pip install {pin}")]


def _machine() -> list[Finding]:
    from treadle.schedules.target import CPUS

    features = cpu_features()
    levels = [name for name, cpu in CPUS.items() if features.issuperset(cpu.features)]
    problem = None if levels else "treadle's kernels need at least x86-64-v3 (AVX2, FMA, F16C)"
    return [
        Finding("system", f"{platform.system()} {platform.machine()}"),
        Finding("cpu level", levels[-1] if levels else "below x86-64-v3", problem),
        Finding("cpu features", " ".join(f for f in _FEATURES if f in features) or "none that matter"),
        Finding("cpus", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} may be used"),
    ]


def _toolchain() -> Finding:
    if _version("apache-tvm") is None:
        return Finding("c++ compiler", "not needed without the compiler extra")
    try:
        from treadle.codegen.cpu import compiler

        return Finding("c++ compiler", " ".join(compiler()))
    except (TreadleError, ImportError, OSError) as wrong:
        return Finding("c++ compiler", "not usable", str(wrong))


def cache_problem() -> str | None:
    """Why compiled code cannot be kept, if it cannot."""
    root = settings.cache_dir
    existing = next((p for p in (root, *root.parents) if p.exists()), root)
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return None
    return f"the cache {root} cannot be written, so everything is compiled anew: make it writable or set TREADLE_CACHE_DIR"


def _cache() -> list[Finding]:
    root = settings.cache_dir
    held = sum(f.stat().st_size for f in root.rglob("*") if f.is_file()) if root.is_dir() else 0
    return [Finding("cache", f"{root}, {size(held)}", cache_problem())]


def _settings() -> list[Finding]:
    found = []
    for variable in Settings.table():
        try:
            value = variable.__get__(settings, Settings)
        except TreadleError as wrong:
            found.append(Finding(variable.name, str(wrong.given), str(wrong)))
        else:
            found.append(Finding(variable.name, f"{'unset' if value in (None, '') else value}  ({variable.meaning})"))
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
