"""CUDA libraries: machine code for what was asked and no more, the same bytes each time, refusals that name a culprit."""

import io
import json
import re
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from treadle.api import compile_graph
from treadle.codegen import cuda, fatbin, nvcc, ptxas
from treadle.codegen.cuda_source import Source
from treadle.codegen.lower import lower
from treadle.errors import ArchError, ArgumentError, ToolchainError, UnknownNameError
from treadle.ir import build
from treadle.ir.graph import single
from treadle.runtime.bundle import Bundle
from treadle.schedules.target import GPUS, Gpu, Target

try:
    nvcc.find()
except ToolchainError as missing:
    pytest.skip(f"no CUDA compiler anywhere: {missing}", allow_module_level=True)


def link(kernels, lowered, folder, target=None, waive=()):
    folder.mkdir(parents=True, exist_ok=True)
    return cuda.link_library(lowered, None, target or kernels.HOPPER, folder / "lib.so", waive=waive)


@pytest.fixture(scope="module")
def made(kernels, tmp_path_factory):
    """(kernels, the library's bytes, the files beside it) of two kernels for two architectures."""
    lowered, folder = [kernels.elementwise(), kernels.transpose()], tmp_path_factory.mktemp("made")
    files = link(kernels, lowered, folder, kernels.BOTH)
    assert [f.name for f in folder.iterdir()] == ["lib.so"]
    return lowered, (folder / "lib.so").read_bytes(), files


def test_machine_code_of_both_architectures_is_embedded(made):
    lowered, library, _ = made
    images = list(fatbin.images(library))
    assert [(i.arch, i.is_code) for i in images] == [("sm_80", True), ("sm_90a", True)]
    for image, number in zip(images, (80, 90), strict=True):
        elf = ELFFile(io.BytesIO(image.data))
        assert elf["e_machine"] == "EM_CUDA" and elf["e_flags"] >> 8 & 0xFF == number
        assert {f".text.{k.symbol}_kernel" for k in lowered} <= {s.name for s in elf.iter_sections()}


def test_every_dtype_compiles_into_one_library(kernels, tmp_path):
    """The entry points are plain C++, which knows no float16 unless it is told."""
    lowered = [lower(build("image.to_planes", t), kernels.HOPPER) for t in ("float32", "float16", "bfloat16")]
    files = link(kernels, lowered, tmp_path)
    assert "half*" in files["sources/entries.cc"] and "uint16_t*" in files["sources/entries.cc"]
    (image,) = fatbin.images((tmp_path / "lib.so").read_bytes())
    assert image.is_code and all(k.symbol.encode() in image.data for k in lowered)


def test_other_contents_are_refused(made):
    _, library, _ = made
    for archs, names, words in (
        (["sm_90a"], [], "sm_80"),
        (["sm_80", "sm_100a"], [], "sm_100a"),
        (["sm_80", "sm_90a"], ["nobody_kernel"], "nobody_kernel"),
    ):
        with pytest.raises(ToolchainError, match=words):
            fatbin.check(library, archs, names)
    with pytest.raises(ToolchainError, match="no device code"):
        fatbin.check(b"// source, as TVM leaves it without a driver", ["sm_90a"], [])
    with pytest.raises(ToolchainError, match="no machine code"):
        fatbin.check(library.replace(b"\x7fELF\x02\x01\x01\x41", b"// CUDA "), ["sm_80", "sm_90a"], [])


def test_sources_and_ptx_are_kept(made):
    lowered, _, files = made
    for arch in ("sm_80", "sm_90a"):
        assert f".target {arch}" in files[f"sources/{arch}.ptx"]
        assert all(f".entry {k.symbol}_kernel(" in files[f"sources/{arch}.ptx"] for k in lowered)
    for k, threads in zip(lowered, (256, 1024), strict=True):
        assert f"__global__ void __launch_bounds__({threads}) {k.symbol}_kernel(" in files["sources/kernels.cu"]
    assert "div.rn.f32" in files["sources/sm_90a.ptx"]  # with fast math it would be div.approx


def test_the_report_states_what_each_kernel_takes(made):
    lowered, _, files = made
    for arch in ("sm_80", "sm_90a"):
        told = json.loads(files[f"reports/{arch}.json"])
        flat, tiles = (next(r for r in told["kernels"] if r["kernel"] == k.symbol) for k in lowered)
        assert told["arch"] == arch and told["device"]["bandwidth_gbs"] > 2000
        assert (tiles["program"], tiles["schedule"], tiles["point"]) == ("test.transpose", "tiles", {"threads": 1024})
        assert (tiles["threads"], tiles["static_shared"], tiles["dynamic_shared"], tiles["barriers"]) == (1024, 4096, 0, 1)
        assert (flat["threads"], flat["static_shared"], flat["barriers"]) == (256, 0, 0)
        assert all(0 < r["registers"] <= 64 and r["stack"] == r["spill_stores"] == r["spill_loads"] == 0 for r in (flat, tiles))
        assert tiles["occupancy"]["warps"] == 64 and tiles["occupancy"]["share"] == 1
        assert flat["floor"] == {"bytes": "N * 8", "flops": "N", "exps": "N"}


def test_the_library_exports_its_entry_points_and_needs_two_libraries(made):
    lowered, library, _ = made
    elf = ELFFile(io.BytesIO(library))
    names = [s.name for s in elf.get_section_by_name(".dynsym").iter_symbols() if s["st_shndx"] != "SHN_UNDEF"]
    assert {f"__tvm_ffi_{k.symbol}" for k in lowered} == {n for n in names if not n.startswith("_Z")}
    tags = list(elf.get_section_by_name(".dynamic").iter_tags())
    needed = {t.needed for t in tags if t.entry.d_tag == "DT_NEEDED"}
    assert needed - {"libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6"} == {"libtvm_ffi.so", nvcc.CUDART}
    assert [t.runpath for t in tags if t.entry.d_tag == "DT_RUNPATH"] == ["$ORIGIN"]
    undefined = [s.name for s in elf.get_section_by_name(".dynsym").iter_symbols() if s["st_shndx"] == "SHN_UNDEF"]
    assert not [n for n in undefined if n.startswith("TVMBackend")]  # nothing of libtvm_runtime


def test_no_path_of_this_machine_is_inside(made):
    _, library, _ = made
    for path in (Path(cuda.__file__).parents[1], nvcc.find().include.parent, "/tmp/", "site-packages", "tmpxft"):
        assert str(path).encode() not in library


def test_two_clean_compiles_give_the_same_bytes(made, kernels, tmp_path):
    _, library, files = made
    again = link(kernels, [kernels.elementwise(), kernels.transpose()], tmp_path / "elsewhere" / "deeper", kernels.BOTH)
    assert (tmp_path / "elsewhere" / "deeper" / "lib.so").read_bytes() == library
    assert again == files


def test_a_kernel_that_spills_is_refused_by_name_unless_waived(kernels, tmp_path):
    wanted = r"test\.local_array, schedule by_hand.*on sm_90a has \d+ bytes of stack"
    with pytest.raises(ToolchainError, match=wanted) as caught:
        link(kernels, [kernels.elementwise(), kernels.local_array()], tmp_path / "refused")
    hint = caught.value.hint
    assert "--waive test.local_array" in hint and "waive=['test.local_array']" in hint and "test.swish" not in hint
    both = [kernels.elementwise(), kernels.local_array()]
    files = link(kernels, both, tmp_path / "waived", waive=["test.local_array"])
    rows = {r["program"]: r for r in json.loads(files["reports/sm_90a.json"])["kernels"]}
    assert rows["test.local_array"]["stack"] >= 256 and rows["test.local_array"]["waived"] == "by the caller"
    assert rows["test.swish"]["waived"] is None


def test_too_few_registers_are_found_out(kernels, tmp_path, monkeypatch):
    many = "".join(f"float v{i} = x[t + {i} * n]; " for i in range(64))
    uses = "".join(f"y[t + {i} * n] = v{63 - i} * v{(i * 7) % 64}; " for i in range(64))
    name = f"{kernels.elementwise().symbol}_kernel"
    body = f"int t = threadIdx.x; {many} __syncthreads(); {uses}"
    text = f'extern "C" __global__ void {name}(float* x, float* y, int n) {{ {body} }}\n'
    (tmp_path / "kernels.cu").write_text(text)
    monkeypatch.setattr(cuda, "NVCC_FLAGS", (*cuda.NVCC_FLAGS, "-maxrregcount=24"))
    used = ptxas.parse(cuda._device(Source(text, "", ()), kernels.HOPPER, tmp_path))["sm_90a"][name]
    assert used.registers <= 24 and used.spill_stores > 0 and used.spill_loads > 0 and used.spills


def test_a_loop_left_unbound_is_named(kernels, tmp_path):
    with pytest.raises(ToolchainError) as caught:
        link(kernels, [kernels.transpose(), kernels.unbound()], tmp_path)
    for word in ("test.unbound", "schedule plain", "block y", "blockIdx", "Bind a loop"):
        assert word in str(caught.value)


def test_what_tvm_refuses_is_restated_with_its_owner(kernels, tmp_path):
    with pytest.raises(ToolchainError, match=r"test\.symbolic_stack, schedule by_hand: TVM cannot.*constant size") as caught:
        link(kernels, [kernels.elementwise(), kernels.symbolic_stack()], tmp_path)
    assert "test.swish" not in str(caught.value)


def test_what_nvcc_refuses_names_the_program_and_keeps_the_source(kernels, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"test\.unknown_function, schedule by_hand: nvcc refuses") as caught:
        link(kernels, [kernels.elementwise(), kernels.unknown_function(), kernels.transpose()], tmp_path / "work")
    assert "no_such_function" in str(caught.value)
    kept = Path(re.search(r"kept in (\S+\.cu)", caught.value.hint)[1])
    assert "no_such_function" in kept.read_text() and kept.is_relative_to(tmp_path)


def test_an_instruction_the_architecture_lacks_is_said_so(kernels, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    text = 'extern "C" __global__ void k() { asm volatile("wgmma.fence.sync.aligned;"); }\n'
    (tmp_path / "kernels.cu").write_text(text)
    with pytest.raises(ArchError, match=r"lacks.*wgmma"):
        cuda._device(Source(text, "", ()), Target.parse("cuda:sm_80"), tmp_path)


def test_a_schedule_whose_instructions_the_architecture_lacks_is_refused(monkeypatch, tmp_path):
    turing = Gpu("sm_75", "T4", 40, 64 << 10, 65536, 320, 65, 8, frozenset({"ldmatrix"}))
    monkeypatch.setitem(GPUS, "sm_75", turing)
    graph = single(build("gemm.linear", "float16"))
    with pytest.raises(ArgumentError, match=r"gemm\.linear: schedule mma refuses.*sm_75 has no cp\.async"):
        compile_graph(graph, "cuda:sm_75,sm_90a", tmp_path / "b")


def test_without_a_compiler_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(nvcc, "_candidates", lambda: iter(()))
    monkeypatch.delenv("TREADLE_NVCC", raising=False)
    with pytest.raises(ToolchainError, match=r"no CUDA compiler.*pip install 'treadle\[nvcc\]'"):
        compile_graph(single(build("image.mean_pool")), "cuda:sm_90a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_unknown_architecture_lists_those_known():
    with pytest.raises(UnknownNameError, match=r"sm_80, sm_90a.*Did you mean 'sm_90a'"):
        Target.parse("cuda:sm_90")


def test_a_bundle_for_two_architectures(tmp_path, monkeypatch):
    graph, trees = single(build("image.mean_pool")), []
    for name in ("one", "two"):
        monkeypatch.setenv("TREADLE_CACHE_DIR", str(tmp_path / f"cache-{name}"))
        assert not compile_graph(graph, "cuda:sm_90a,sm_80", tmp_path / name).cached
        trees.append({str(f.relative_to(tmp_path / name)): f.read_bytes() for f in (tmp_path / name).rglob("*") if f.is_file()})
    assert trees[0] == trees[1]
    assert compile_graph(graph, "cuda:sm_80,sm_90a", tmp_path / "again").cached
    assert {"lib/cuda-sm_80-sm_90a.so", "sources/kernels.cu"} <= trees[0].keys()
    assert [(i.arch, i.is_code) for i in fatbin.images(trees[0]["lib/cuda-sm_80-sm_90a.so"])] == [("sm_80", True), ("sm_90a", True)]
    for arch in ("sm_80", "sm_90a"):
        assert f".target {arch}".encode() in trees[0][f"sources/{arch}.ptx"] and f"reports/{arch}.json" in trees[0]
    manifest = Bundle.open(tmp_path / "one").manifest
    assert manifest.libraries[0].target == "cuda:sm_80,sm_90a" and manifest.producer["nvcc"] == nvcc.find().version
    assert {t.alignment for e in manifest.entries for t in (*e.inputs, *e.outputs)} == {16}
    with pytest.raises(ArchError, match="target"):
        Bundle.open(tmp_path / "one", "cpu")
    symbols = subprocess.run(["nm", "-D", tmp_path / "one/lib/cuda-sm_80-sm_90a.so"], capture_output=True, text=True).stdout
    assert "T __tvm_ffi_treadle_run_main" in symbols
