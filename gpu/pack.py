"""python -m gpu.pack [--target cuda:sm_90a] [--out gpu-kit]: packs the kit, on a machine with the compiler and internet.

Kernels of all Programs go into one library: a library costs seconds to compile, a further kernel a fraction of one. The
wheels are for the machine the kit goes to, not for this one.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu.cases import LIBRARY, Case, Tensor, Work, write
from treadle import models
from treadle.api import compile_graph
from treadle.cases import _carry_weights, draw_sizes, generator
from treadle.codegen import cpu, cuda
from treadle.codegen.lower import Lowered, lower
from treadle.errors import TreadleError
from treadle.ir import Program, build, definitions
from treadle.ir import dims as dm
from treadle.runtime.sums import write_sums
from treadle.schedules.target import Target

ROOT = Path(__file__).parents[1]
LIMIT = 60 << 20
DTYPES = ("float32", "float16", "bfloat16")
#: The machine's Python, and the wheels' tags it accepts.
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
WHEELS = ("apache-tvm-ffi", "safetensors", "ml-dtypes", "typer", "rich")

#: Sizes that fill a large GPU. G follows C.
TIMED: Mapping[str, Mapping[str, int]] = {
    "gemm.linear": {"N": 1, "P": 8192, "K": 4096, "M": 4096},
    "image.mean_pool": {"N": 64, "C": 1152, "P": 1024},
    "image.patch_embed": {"N": 64, "C": 3, "H": 37, "W": 37, "M": 1152},
    "image.to_planes": {"N": 64, "P": 1024, "C": 1152},
    "norm.layer_norm": {"R": 65536, "C": 1152},
    "scan.gspn": {"N": 8, "C": 64, "H": 256, "W": 256, "G": 64},
    "scan.gspn_adjoint": {"N": 4, "C": 64, "H": 256, "W": 256, "G": 64},
    "scan.gspn_gates": {"N": 8, "G": 64, "H": 256, "W": 256},
    "scan.gspn_merge": {"N": 8, "C": 64, "P": 65536},
}
#: Values of attributes that are numbers, to check beside the default.
OTHER: Mapping[str, tuple[int, ...]] = {"chunk": (7,), "patch": (16,)}
#: Random awkward sizes per kernel, and how large the one is that occupies many blocks and still has a quick oracle.
AWKWARD, MIDDLE_BYTES, MIDDLE_FLOPS = 3, 4 << 20, 1 << 29


def pack(
    out: Path, target: str, programs: Sequence[str] | None = None, dtypes: Sequence[str] = DTYPES, wheels: bool = True
) -> int:
    """Write the kit, replacing an old one; returns its bytes."""
    goal = Target.parse(target)
    shutil.rmtree(out, ignore_errors=True)
    (out / "kernels").mkdir(parents=True)
    chosen = [p for p in _programs(programs or list(definitions())) if p.dtype in dtypes]
    lowered = [lower(p, goal) for p in chosen]
    _say(f"compiling {len(lowered)} kernels for {target}")
    _link(lowered, goal, out / "kernels")
    write(out / "kernels", target, [_case(k) for k in lowered])
    write_sums(out / "kernels")
    for dtype in dtypes:
        _say(f"compiling cgspn:tiny in {dtype} for {target}")
        compile_graph(models.build("cgspn", "tiny", dtype), target, out / "bundles" / f"cgspn-tiny-{dtype}.treadle", seed=1)
    shutil.copytree(ROOT / "gpu", out / "gpu", ignore=shutil.ignore_patterns("__pycache__", "run.sh", "pack.py"))
    shutil.copy(ROOT / "gpu" / "run.sh", out)
    (out / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "gpu" / "test_device.py", out / "tests")
    if wheels:
        _say("collecting wheels")
        _wheels(out / "wheels")
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    if size > LIMIT:
        raise TreadleError(f"{out} is too large to carry", given=f"{size} B", expected=f"at most {LIMIT} B")
    return size


def _programs(names: Sequence[str]) -> Iterator[Program]:
    """Each Program with its default attributes, and with one attribute at a time at each other value."""
    for name in names:
        d = definitions()[name]
        for dtype in d.dtypes:
            yield build(name, dtype)
            for attr, kind in d.attrs.items():
                for value in (*(c for c in kind.choices if c != kind.default), *OTHER.get(attr, ())):
                    yield build(name, dtype, {attr: value})


def _link(lowered: Sequence[Lowered], target: Target, folder: Path) -> None:
    if target.kind != "cuda":
        return cpu.link_library(lowered, "", target, folder / LIBRARY)
    for name, text in cuda.link_library(lowered, None, target, folder / LIBRARY).items():
        if name.startswith("reports/"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)


def _case(kernel: Lowered) -> Case:
    p = kernel.program
    carry = _carry_weights(p)

    def tensor(t: Any) -> Tensor:
        name = t.op.name
        return Tensor(name, tuple(dm.text(s) for s in t.shape), str(t.dtype), 1 / carry[name] if name in carry else None)

    checked = [draw_sizes(p, generator(0, p.symbol, i)) for i in range(AWKWARD)]
    timed = TIMED.get(p.name)
    default = {n: a.default for n, a in p.definition.attrs.items()}
    if timed:
        checked.append(_middle(p, timed))
    worth_timing = timed and {**p.attrs, "direction": None} == {**default, "direction": None}
    return Case(
        p.name, p.dtype, dict(p.attrs), kernel.schedule, p.symbol, tuple(map(tensor, p.args)), tuple(map(tensor, p.results)),
        tuple(_work(p, s) for s in checked), _work(p, timed) if timed and worth_timing else None,
    )  # fmt: skip


def _middle(p: Program, sizes: Mapping[str, int]) -> dict[str, int]:
    """The timed sizes, the largest halved until a float64 oracle on the CPU takes no time; odd, so that tails stay ragged."""
    found = dict(sizes)
    while (cost := p.cost(found)).bytes > MIDDLE_BYTES or cost.flops > MIDDLE_FLOPS:
        largest = max((n for n in found if n != "G" or "C" not in found), key=lambda n: found[n])
        found[largest] = found[largest] // 2 | 1
        if "G" in found and "C" in found:
            found["G"] = found["C"]
    return found


def _work(p: Program, sizes: Mapping[str, int]) -> Work:
    cost = p.cost(sizes)
    return Work(dict(sizes), cost.bytes, cost.flops)


def _wheels(folder: Path) -> None:
    """treadle's own wheel, and what it needs at run time, for the other machine's Python."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    tags = [f"--platform={p}" for p in PLATFORMS]
    subprocess.run(
        [*pip, "download", "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *tags,
         f"--constraint={ROOT / 'constraints.txt'}", f"--dest={folder}", *WHEELS],
        check=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:  # built beside the repository, where no old build/ can slip files in
        source = Path(scratch) / "treadle"
        made = shutil.ignore_patterns(".*", "build", "*.egg-info", "gpu-kit", "__pycache__", "demo-out")
        shutil.copytree(ROOT, source, ignore=made)
        subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={folder}", str(source)], check=True)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="gpu.pack", description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="cuda:sm_90a")
    parser.add_argument("--out", type=Path, default=ROOT / "gpu-kit")
    given = parser.parse_args()
    size = pack(given.out, given.target)
    where = given.out
    with suppress(ValueError):
        where = given.out.relative_to(Path.cwd())
    print(f"{where}: {size / (1 << 20):.1f} MiB of at most {LIMIT >> 20}; there: bash {where.name}/run.sh --out DIR")


if __name__ == "__main__":
    main()
