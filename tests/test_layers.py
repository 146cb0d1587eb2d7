"""Imports run one way, files stay small, and nobody imports a top-level folder by its bare name."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("ir", "schedules", "codegen", "models", "runtime", "bench", "treadle")
LEAVES = {"treadle.errors", "treadle.settings", "treadle.dtypes"}
#: what each part may import of the others, beside itself and the leaves
MAY = {
    "ir": set(),
    "schedules": {"ir"},
    "codegen": {"ir", "schedules", "runtime"},
    "models": {"ir"},
    "runtime": set(),
    "bench": {"ir", "schedules", "codegen", "models", "runtime", "treadle"},
    "treadle": {"ir", "schedules", "codegen", "models", "runtime", "bench"},
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{a.name}" for a in node.names)


def files(part):
    return sorted((ROOT / part).rglob("*.py"))


@pytest.mark.parametrize("part", PARTS)
def test_imports_run_one_way(part):
    allowed = MAY[part] | {part}
    for path in files(part):
        for name in imported(path):
            head, *rest = name.split(".")
            assert head not in PARTS or head == "treadle", f"{path}: import treadle.{name}"
            if head != "treadle" or not rest or ".".join((head, *rest[:1])) in LEAVES:
                continue
            where = rest[0] if rest[0] in PARTS else "treadle"
            assert where in allowed, f"{path} imports {name}"


@pytest.mark.parametrize("part", ["runtime"])
def test_the_runtime_knows_no_compiler(part):
    for path in files(part):
        assert not [n for n in imported(path) if n.split(".")[0] in ("tvm", "networkx", "filelock")], path


@pytest.mark.parametrize(("parts", "share"), [(PARTS, 0.1), (("tests",), 0.25)], ids=["code", "tests"])  # tables of cases run long
def test_files_are_small(parts, share):
    lengths = {p: len(p.read_text().splitlines()) for part in parts for p in files(part)}
    assert max(lengths.values()) <= 600, max(lengths, key=lengths.get)
    assert sum(n > 200 for n in lengths.values()) <= share * len(lengths), sorted(lengths, key=lengths.get)[-12:]
