"""cgspn:tiny for CUDA, whole: one kernel per distinct program, machine code alone, nothing spilled, and what can be read of it."""

import json
import re
from collections import Counter

import pytest

import treadle
from treadle import models
from treadle.api import compile_graph
from treadle.cli import main
from treadle.codegen import fatbin, nvcc
from treadle.codegen.report import predict
from treadle.errors import ArchError, DeviceError, ToolchainError, UnknownNameError
from treadle.runtime import cuda
from treadle.runtime.bundle import Bundle

try:
    nvcc.find()
except ToolchainError as missing:
    pytest.skip(f"no CUDA compiler anywhere: {missing}", allow_module_level=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(what compiling said, the bundle's folder) for sm_90a."""
    out = tmp_path_factory.mktemp("cuda") / "tiny.treadle"
    return compile_graph(models.build("cgspn", "tiny"), "cuda:sm_90a", out, seed=0), out


def report_of(folder, arch="sm_90a"):
    return json.loads((folder / f"reports/{arch}.json").read_text())


def inspected(folder, stage, capsys):
    assert main(["inspect", str(folder), "--stage", stage, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["result"]["value"]


def test_a_kernel_per_distinct_program_and_not_per_layer(tiny):
    report, folder = tiny
    steps = json.loads((folder / "plan.json").read_text())["entries"]["main"]["steps"]
    called = Counter(step["kernel"] for step in steps)
    assert report.nodes == called.total() == 112 and report.kernels == len(called) == 19
    made = {r["kernel"] for r in report_of(folder)["kernels"]}
    assert made == set(called)
    deeper = models.build("cgspn", "tiny", depth=9)
    assert len({n.program.symbol for n in deeper.nodes}) == report.kernels < report.nodes < len(deeper.nodes)


def test_it_holds_machine_code_of_every_kernel_and_no_source(tiny):
    _, folder = tiny
    library = (folder / "lib/cuda-sm_90a.so").read_bytes()
    (image,) = fatbin.images(library)
    assert (image.arch, image.is_code) == ("sm_90a", True)
    for row in report_of(folder)["kernels"]:
        assert b".text." + row["function"].encode() + b"\0" in image.data
    assert b"__launch_bounds__" not in library and b".visible .entry" not in library  # neither CUDA C++ nor PTX


def test_no_kernel_spills_or_was_waived(tiny):
    for row in report_of(tiny[1])["kernels"]:
        assert (row["spill_stores"], row["spill_loads"], row["stack"], row["waived"]) == (0, 0, 0, None), row["function"]
        assert 0 < row["registers"] < 255


def test_the_stages_of_a_cuda_bundle(tiny, capsys):
    _, folder = tiny
    (told,) = inspected(folder, "report", capsys)
    assert told == report_of(folder)
    assert all({"registers", "spill_stores", "static_shared", "dynamic_shared", "stack"} <= r.keys() for r in told["kernels"])
    functions = {r["function"] for r in told["kernels"]}
    ptx = inspected(folder, "ptx", capsys)
    assert list(ptx) == ["sm_90a"] and set(re.findall(r"\.visible \.entry (\w+)\(", ptx["sm_90a"])) == functions
    assert set(re.findall(r"__global__ void .*?(\w+)\([^()]*\);", inspected(folder, "cuda", capsys))) == functions
    assert main(["inspect", str(folder), "--stage", "report"]) == 0
    shown = capsys.readouterr().out
    assert "registers" in shown and "spills" in shown and "image_mean_pool" in shown


def test_the_predicted_floor_is_bytes_or_flops_over_the_data_sheet(tiny):
    graph, told = models.build("cgspn", "tiny"), report_of(tiny[1])
    rows = {r.kernel: r for r in predict(graph, told, {"N": 1, "H": 504, "W": 504})}
    assert sum(r.calls for r in rows.values()) == tiny[0].nodes and len(rows) == tiny[0].kernels
    pool = rows["image.mean_pool C=192"]
    assert (pool.calls, pool.by, pool.spills) == (1, "bytes", 0)
    assert pool.seconds == pytest.approx((36 * 36 + 1) * 192 * 4 / 3350e9)
    up = rows["gemm.linear gelu_tanh K=192 M=768"]
    assert (up.calls, up.by) == (4, "flops")
    assert up.seconds == pytest.approx(4 * 2 * 36 * 36 * 192 * 768 / 67e12, rel=0.01)
    (row,) = (r for r in told["kernels"] if r["dims"] == {"K": 192, "M": 768})
    assert (up.registers, up.shared) == (row["registers"], row["dynamic_shared"])


def test_a_second_compile_comes_from_the_cache(tiny, tmp_path):
    _, folder = tiny
    assert compile_graph(models.build("cgspn", "tiny"), "cuda:sm_90a", tmp_path / "again", seed=0).cached
    for file in folder.rglob("*"):
        if file.is_file():
            assert (tmp_path / "again" / file.relative_to(folder)).read_bytes() == file.read_bytes(), file


def test_loading_where_there_is_no_driver(tiny, monkeypatch):
    monkeypatch.setattr(cuda, "DRIVER", "libcuda-of-no-machine.so.1")
    cuda._driver.cache_clear()
    try:
        with pytest.raises(DeviceError, match=r"no NVIDIA driver on this machine.*Load the bundle with device='cpu'"):
            treadle.load(tiny[1], device="cuda")
    finally:
        cuda._driver.cache_clear()
    with pytest.raises(ArchError, match=r"given .*cuda:sm_90a"):
        treadle.load(tiny[1])  # device="cpu": the bundle holds none for it


def test_loading_on_another_architecture(tiny, monkeypatch):
    ampere = cuda.CudaDevice(0, "A100", (8, 0), 13000, 13000)
    monkeypatch.setattr(cuda, "find_device", lambda index: ampere)
    with pytest.raises(ArchError, match=r"holds no code for A100.*given code for sm_90a.*expected code for sm_80") as caught:
        treadle.load(tiny[1], device="cuda:0")
    assert "--target cuda:sm_80 " in caught.value.hint


def test_only_programs_of_the_graph_can_be_waived(tmp_path):
    with pytest.raises(UnknownNameError, match=r"program to waive.*scan\.gspn_gates.*Did you mean 'scan.gspn'"):
        compile_graph(models.build("cgspn", "tiny"), "cuda:sm_90a", tmp_path / "b", waive=["scan.gpsn"])


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_half_width_encoders(tmp_path, dtype):
    """30 s each; that every dtype links, and each schedule's own spills, are tested in CI."""
    report = compile_graph(models.build("cgspn", "tiny", dtype), "cuda:sm_90a", tmp_path / "b")
    assert report.kernels == 19
    gemms = [r for r in report_of(tmp_path / "b")["kernels"] if r["program"] in ("gemm.linear", "image.patch_embed")]
    assert gemms and all(r["schedule"] == "mma" for r in gemms)


@pytest.mark.long
def test_two_clean_compiles_of_a_model_give_the_same_bytes(tiny, tmp_path, monkeypatch):
    """30 s; a bundle of one kernel is compared in CI."""
    monkeypatch.setenv("TREADLE_CACHE_DIR", str(tmp_path / "cold"))
    assert not compile_graph(models.build("cgspn", "tiny"), "cuda:sm_90a", tmp_path / "b", seed=0).cached
    for file, summed in Bundle.open(tiny[1]).sums.items():
        assert Bundle.open(tmp_path / "b").sums[file] == summed, file


@pytest.mark.long
def test_the_largest_encoder(tmp_path):
    """Two minutes of two cores: 733 calls of 19 kernels."""
    report = compile_graph(models.build("cgspn", "so400m", "bfloat16"), "cuda:sm_90a", tmp_path / "b")
    assert (report.nodes, report.kernels) == (733, 19)
