"""The generated host function: size expressions in C++, bitwise agreement with the interpreter, arena, link."""

import subprocess

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

import treadle
from treadle import models
from treadle.codegen.host import cpp
from treadle.dtypes import dtype
from treadle.errors import TreadleError
from treadle.runtime.interpreter import run_plan
from treadle.runtime.sizes import size_expr


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def encoder(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("host") / "tiny.treadle"
    return treadle.compile(models.build("cgspn", "tiny", request.param), out=out)


def image_dtype(bundle):
    return dtype(bundle.manifest.entries[0].inputs[0].dtype).numpy


def test_generated_function_and_interpreter_agree_bit_for_bit(encoder):
    session = treadle.Session(encoder)
    rng = np.random.default_rng(0)
    kind = image_dtype(encoder)
    for shape in ((1, 3, 56, 56), (2, 3, 14, 70), (1, 3, 98, 42)):
        image = rng.standard_normal(shape, dtype=np.float32).astype(kind)
        fast, slow = session.run(image=image), run_plan(encoder, "main", image=image)
        for name in ("features", "pooled"):
            assert fast[name].tobytes() == np.asarray(slow[name]).tobytes(), name
            assert np.isfinite(fast[name].astype(np.float32)).all()


def test_arena_grows_to_the_largest_call_and_stays(encoder):
    session = treadle.Session(encoder)
    kind = image_dtype(encoder)
    seen = [session.arena_bytes]
    for side in (56, 14, 84):
        session.run(image=np.zeros((1, 3, side, side), kind))
        seen.append(session.arena_bytes)
    assert seen[0] == 0 and 0 < seen[1] == seen[2] < seen[3]


def test_library_needs_libtvm_ffi_and_the_system_only(encoder):
    with open(encoder.path / "lib/cpu.so", "rb") as f:
        elf = ELFFile(f)
        dynamic = elf.get_section_by_name(".dynamic")
        needed = {t.needed for t in dynamic.iter_tags() if t.entry.d_tag == "DT_NEEDED"}
        runpath = [t.runpath for t in dynamic.iter_tags() if t.entry.d_tag == "DT_RUNPATH"]
        exported = {s.name for s in elf.get_section_by_name(".dynsym").iter_symbols() if s.entry.st_shndx != "SHN_UNDEF"}
    assert needed <= {"libtvm_ffi.so", "libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2"}
    assert "libtvm_ffi.so" in needed and runpath == ["$ORIGIN"]
    assert {"treadle_abi_version", "__tvm_ffi_treadle_run_main"} <= exported


def expressions():
    leaf = st.one_of(st.integers(0, 50).map(str), st.sampled_from(["N", "H"]))
    return st.recursive(
        leaf,
        lambda e: st.one_of(
            st.tuples(e, st.sampled_from(["+", "*"]), e).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
            st.tuples(e, st.sampled_from(["//", "%"]), st.integers(1, 20)).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
            st.tuples(st.sampled_from(["min", "max"]), e, e).map(lambda p: f"{p[0]}({p[1]}, {p[2]})"),
        ),
        max_leaves=6,
    )


@settings(max_examples=5, deadline=None)
@given(st.lists(expressions(), min_size=40, max_size=40))
def test_size_expressions_mean_the_same_in_cpp(tmp_path_factory, texts):
    sizes = {"N": 7, "H": 1234}
    folder = tmp_path_factory.mktemp("cpp")
    body = "".join(f'  std::printf("%lld\\n", (long long)({cpp(t)}));\n' for t in texts)
    source = "#include <algorithm>\n#include <cstdint>\n#include <cstdio>\nint main() {\n  const int64_t N = 7, H = 1234; (void)N; (void)H;\n"
    (folder / "t.cc").write_text(source + body + "}\n")
    subprocess.run(["c++", "-std=c++17", "-w", "t.cc", "-o", "t"], cwd=folder, check=True)
    printed = subprocess.run([folder / "t"], capture_output=True, text=True, check=True).stdout.split()
    assert [int(v) for v in printed] == [size_expr(t).evaluate(sizes) for t in texts]


def test_anything_else_is_no_size_expression():
    with pytest.raises(TreadleError, match="not a size expression"):
        cpp("N if H else 1")
