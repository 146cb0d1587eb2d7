"""python -m gpu.pack [--target cuda:sm_90a] [--out gpu-kit]: packs the kit, on a machine with the compiler and internet.

A Program's kernels share a library: a library costs seconds to compile, a further kernel a fraction of one. Libraries come
from the cache. A kernel that does not compile is left out, one that spills goes along to be measured, and both are named,
here and in the kit's own table. The wheels are for the machine the kit goes to, not for this one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

from gpu import choose
from gpu.cases import Case, plain, write
from gpu.loaders import LOADERS
from treadle import models
from treadle.api import compile_graph
from treadle.codegen import cpu, cuda, cuda_packed
from treadle.codegen.cache import Cache, digest
from treadle.codegen.lower import Lowered
from treadle.errors import ToolchainError, TreadleError
from treadle.runtime.sums import write_sums
from treadle.schedules.target import Target

ROOT = Path(__file__).parents[1]
LIMIT = 60 << 20
DTYPES = ("float32", "float16", "bfloat16")
#: Files of gpu/ that only packing needs.
_HERE_ONLY = ("__pycache__", "run.sh", "pack.py", "choose.py")
#: The machine's Python, and the wheels' tags it accepts.
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
WHEELS = ("apache-tvm-ffi", "numpy", "safetensors", "ml-dtypes", "typer", "rich")


def pack(
    out: Path,
    target: str,
    programs: Sequence[str] | None = None,
    dtypes: Sequence[str] = DTYPES,
    candidates: int = 2,
    wheels: bool = True,
) -> int:
    """Write the kit, replacing an old one; returns its bytes."""
    goal = Target.parse(target)
    shutil.rmtree(out, ignore_errors=True)
    (out / "kernels").mkdir(parents=True)
    with ExitStack() as keep:
        made = _Libraries(goal, out, keep)
        made.add_all([*choose.kernels(goal, programs, dtypes, candidates), *choose.ladder(goal, programs, dtypes)])
        if goal.kind == "cuda":
            made.add_packed(programs)
    write(out / "kernels", target, made.cases, made.remarks)
    write_sums(out / "kernels")
    for dtype in dtypes:
        _say(f"compiling cgspn:tiny in {dtype} for {target}")
        bundle = out / "bundles" / f"cgspn-tiny-{dtype}.treadle"
        compile_graph(models.build("cgspn", "tiny", dtype), target, bundle, seed=1)
        shutil.rmtree(bundle / "sources")  # a third of it, and nobody reads them there
        write_sums(bundle)
    shutil.copytree(ROOT / "gpu", out / "gpu", ignore=shutil.ignore_patterns(*_HERE_ONLY))
    shutil.copy(ROOT / "gpu" / "run.sh", out)
    (out / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "gpu" / "test_device.py", out / "tests")
    _ptx_cases(out / "tests" / "ptxsim")
    if wheels:
        _say("collecting wheels")
        _wheels(out / "wheels")
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    if size > LIMIT:
        raise TreadleError(f"{out} is too large to carry", given=f"{size} B", expected=f"at most {LIMIT} B")
    return size


class _Libraries:
    """The kit's kernels, compiled, and what the kit says of them."""

    def __init__(self, target: Target, out: Path, keep: ExitStack) -> None:
        self.target, self.out, self.keep = target, out, keep
        self.cases: list[Case] = []
        self.remarks: list[dict[str, str]] = []

    def add_all(self, lowered: Sequence[Lowered]) -> None:
        """A library per Program and Point of it: a library holds a symbol once, and a Program's Points share one."""
        groups: dict[str, dict[str, Lowered]] = {}
        for k in lowered:
            rank = sum(k.symbol in group for name, group in groups.items() if name.startswith(f"{k.program.name}-"))
            groups.setdefault(f"{k.program.name}-{rank}", {})[k.symbol] = k
        for i, (name, group) in enumerate(groups.items()):
            _say(f"compiling library {i + 1} of {len(groups)}: {name}, {len(group)} kernels")
            self._add(name, list(group.values()))

    def _add(self, name: str, lowered: Sequence[Lowered]) -> None:
        """One library; of kernels that do not compile, the half that does, down to the culprit."""
        try:
            folder = self._made("kit", lowered, lambda into: _link(lowered, self.target, into))
        except ToolchainError as wrong:
            if len(lowered) == 1:
                (k,) = lowered
                what = f"{k.program.name} {k.program.dtype} {plain(k.program.attrs)}, {k.schedule} {plain(asdict(k.point))}"
                self._remark(what, f"left out: {wrong}")
                return
            middle = len(lowered) // 2
            self._add(f"{name}a", lowered[:middle])
            self._add(f"{name}b", lowered[middle:])
            return
        shutil.copy(folder / "kernels.so", self.out / "kernels" / f"{name}.so")
        for report in folder.glob("reports/*.json"):
            (self.out / "reports").mkdir(exist_ok=True)
            shutil.copy(report, self.out / "reports" / f"{name}-{report.name}")
            for row in json.loads(report.read_text())["kernels"]:
                if row["waived"]:
                    what = f"{row['program']} {row['dtype']} {plain(row['attrs'])}, {row['schedule']}"
                    self._remark(what, f"spills: {row['stack']} bytes of stack on {report.stem}")
        self.cases += [case for k in lowered for case in choose.cases(k, self.target, f"{name}.so")]

    def _remark(self, kernel: str, why: str) -> None:
        _say(f"{kernel}: {why}")
        self.remarks.append({"kernel": kernel, "why": why[:1000]})

    def add_packed(self, programs: Sequence[str] | None) -> None:
        """A few kernels once more by the other route, with what it needs of TVM there."""
        chosen = [p for p in choose.ROUTE_B if not programs or p in programs]
        if not chosen:
            return
        _say(f"compiling {' and '.join(chosen)} by route B")
        lowered = [next(choose.kernels(self.target, [p], ["float32"], 0)) for p in chosen]
        folder = self._made(
            "kit-packed", lowered, lambda into: cuda_packed.link_library(lowered, self.target, into / "kernels.so")
        )
        shutil.copy(folder / "kernels.so", self.out / "kernels" / "packed.so")
        self.cases += [choose.case(k, self.target, "packed.so", "B") for k in lowered]
        import tvm

        (self.out / "lib").mkdir()
        for file in LOADERS:
            shutil.copy(Path(tvm.__file__).parent / "lib" / file, self.out / "lib")

    def _made(self, kind: str, lowered: Sequence[Lowered], build: Callable[[Path], None]) -> Path:
        tools = cuda.key() if self.target.kind == "cuda" else cpu.key()
        scripts = [k.func.script(show_meta=True) for k in lowered]
        key = digest({"kind": kind, "kernels": scripts, "target": self.target.name, "tools": tools})
        return Cache.default().get_or_build(key, build, self.keep)[0]



def _ptx_cases(out: Path) -> None:
    """The PTX machine's test kernels and cases, which a GPU has to agree with."""
    tests = ROOT / "tests" / "ptxsim"
    (out / "kernels" / "ptx").mkdir(parents=True)
    for file in (*tests.glob("case*.py"), *(tests / f"{name}.py" for name in ("kernels", "on_machine", "on_gpu", "test_on_gpu"))):
        shutil.copy(file, out)
    for source in tests.glob("kernels/*.cu"):
        shutil.copy(source, out / "kernels")
        shutil.copy(source.parent / "ptx" / f"{source.stem}.ptx", out / "kernels" / "ptx")


def _link(lowered: Sequence[Lowered], target: Target, folder: Path) -> None:
    if target.kind != "cuda":
        return cpu.link_library(lowered, "", target, folder / "kernels.so")
    waive = {k.program.name for k in lowered}
    for name, text in cuda.link_library(lowered, None, target, folder / "kernels.so", waive=waive).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


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
    parser.add_argument("--dtypes", type=lambda text: text.split(","), default=list(DTYPES), help="separated by commas")
    given = parser.parse_args()
    size = pack(given.out, given.target, dtypes=given.dtypes)
    where = given.out
    with suppress(ValueError):
        where = given.out.relative_to(Path.cwd())
    print(f"{where}: {size / (1 << 20):.1f} MiB of at most {LIMIT >> 20}; there: bash {where.name}/run.sh --out DIR")


if __name__ == "__main__":
    main()
