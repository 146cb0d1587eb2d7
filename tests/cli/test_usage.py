"""Bad command lines and bad surroundings: one sentence, the right exit code, no traceback."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

OUT = ["-o", "never-written.treadle"]

UNKNOWN = [
    (["lst"], "list, show", "list"),
    (["show", "scan.gspm"], "scan.gspn", "scan.gspn"),
    (["compile", "scan.gspm", *OUT], "cgspn:tiny", "scan.gspn"),
    (["compile", "cgspm", *OUT], "cgspn:base", None),
    (["compile", "cgspn:tinny", *OUT], "tiny, base, so400m", "tiny"),
    (["compile", "scan.gspn", "--target", "cpu:x86-64-v5", *OUT], "cpu:native", "cpu:x86-64-v"),
    (["compile", "scan.gspn", "--dtype", "float23", *OUT], "float32, float16, bfloat16", "float32"),
    (["compile", "cgspn:tiny", "--dtype", "float23", *OUT], "float32, float16, bfloat16", "float32"),
    (["compile", "scan.gspn", "--attr", "directoin=l2r", *OUT], "direction, chunk", "direction"),
    (["compile", "scan.gspn", "--attr", "direction=l2b", *OUT], "t2b, b2t, l2r, r2l", "t2b"),
    (["compile", "cgspn:tiny", "--attr", "dept=2", *OUT], "depth", "depth"),
    (["compile", "scan.gspn", "--dim", "K=2", *OUT], "N, C, H, W, G", None),
    (["compile", "cgspn:tiny", "--dim", "K=2", *OUT], "N, H, W", None),
    (["check", "scan.gspm"], "scan.gspn", "scan.gspn"),
    (["bench", "scan.gspm"], "scan.gspn", "scan.gspn"),
    (["inspect", "x", "--stage", "tri"], "tir", "tir"),
]


@pytest.mark.parametrize(("line", "expected", "hint"), UNKNOWN, ids=[" ".join(line) for line, *_ in UNKNOWN])
def test_unknown_names_list_what_exists(treadle, line, expected, hint):
    ran = treadle(*line, "--json")
    assert ran.code == 2 and ran.error["type"] == "UnknownNameError"
    assert expected in ran.error["expected"]
    assert hint is None or hint in ran.error["hint"]
    assert treadle(*line).err.startswith("error: ")


@pytest.mark.parametrize(
    "line",
    [
        ["--json"],
        ["show"],
        ["show", "scan.gspn", "--nonsense"],
        ["cache"],
        ["cache", "lss"],
        ["check", "--cases", "0"],
        ["check", "--cases", "many"],
        ["compile", "scan.gspn"],
        ["compile", "scan.gspn", "--dim", "N", *OUT],
        ["compile", "scan.gspn", "--dim", "N=1..", *OUT],
        ["compile", "scan.gspn", "--dim", "N=-1", *OUT],
        ["compile", "scan.gspn", "--dim", "N=1", "--dim", "N=2", *OUT],
        ["compile", "scan.gspn", "--attr", "chunk", *OUT],
        ["compile", "scan.gspn", "--attr", "chunk=two", *OUT],
        ["compile", "gemm.linear", "--attr", "bias=perhaps", *OUT],
        ["compile", "scan.gspn", "--seed", "1", *OUT],
        ["compile", "cgspn", "--seed", "1", "--weights", "w", *OUT],
    ],
    ids=" ".join,
)
def test_malformed_lines(treadle, line):
    ran = treadle(*line, "--json")
    assert ran.code == 2 and ran.error["type"] == "UsageError", ran
    assert treadle(*line).code == 2


def test_sizes_out_of_bounds(treadle):
    for dim in ("H=2100", "H=0", "H=9..3", "H=15..27"):
        ran = treadle("compile", "cgspn:tiny", "--dim", dim, *OUT, "--json")
        assert ran.code == 1 and ran.error["type"] == "BoundsError", dim
    assert treadle("compile", "scan.gspn", "--dim", "H=0", *OUT, "--json").error["type"] == "BoundsError"
    assert treadle("compile", "scan.gspn", "--attr", "chunk=-1", *OUT, "--json").error["type"] == "ArgumentError"


def test_bad_weights(treadle, encoder, small, tmp_path):
    weights = load_file(encoder / "weights.safetensors")
    weights["norm.weight"] = np.full_like(weights["norm.weight"], np.nan)
    save_file(weights, tmp_path / "nan.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"12345")
    for name, words in (("nan", "norm.weight"), ("torn", "cannot be read"), ("none", "cannot be read")):
        line = ["compile", "cgspn:tiny", *small, "--weights", tmp_path / f"{name}.safetensors", *OUT, "--json"]
        ran = treadle(*line)
        assert ran.code == 1 and ran.error["type"] == "ArgumentError" and words in ran.error["message"]


@pytest.mark.parametrize(("verb", "target"), [("check", "cuda:sm_90a"), ("check", "cuda"), ("bench", "cuda:sm_90a")])
def test_what_needs_a_gpu_says_so(treadle, verb, target):
    ran = treadle(verb, "scan.gspn", "--target", target, "--json")
    assert ran.code == 1 and ran.error["type"] == "DeviceError" and "cpu" in ran.error["expected"]


def test_a_cache_that_cannot_be_written_is_bypassed_and_said(process, tmp_path):
    (tmp_path / "file").write_text("")
    ran = process(
        ["compile", "image.to_planes", "-o", tmp_path / "b", "--json"], TREADLE_CACHE_DIR=str(tmp_path / "file" / "cache")
    )
    assert ran.code == 0 and not ran.json["result"]["cached"]
    assert "cannot be written" in ran.err and "TREADLE_CACHE_DIR" in ran.err


def test_no_cpp_compiler(process, tmp_path):
    ran = process(["compile", "image.to_planes", "-o", tmp_path / "b", "--json"], TREADLE_CXX="/nonexistent")
    assert ran.code == 1 and ran.error["type"] == "ToolchainError"
    assert "TREADLE_CXX" in ran.error["expected"] and "apt-get" in ran.error["hint"]
    assert ran.err.count("\n") <= 1 and "Traceback" not in ran.err


def test_a_bad_setting(process):
    ran = process(["doctor", "--json"], TREADLE_DEBUG="perhaps")
    assert ran.code == 1 and "TREADLE_DEBUG" in ran.error["message"]


def test_an_unforeseen_error_is_one_sentence(treadle, monkeypatch, capsys):
    import treadle.cli.doctor as doctor
    from treadle.cli import main

    def broken():
        raise KeyError("surprise")

    monkeypatch.setattr(doctor, "_versions", broken)
    ran = treadle("doctor")
    assert ran.code == 1 and ran.err.startswith("error: unexpected KeyError") and ran.err.count("\n") == 1
    monkeypatch.setenv("TREADLE_DEBUG", "1")
    assert main(["doctor"]) == 1 and "Traceback" in capsys.readouterr().err


def test_interrupted(treadle, monkeypatch):
    import treadle.cli.doctor as doctor

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "_versions", interrupted)
    assert treadle("doctor").err == "error: interrupted.\n"
    ran = treadle("doctor", "--json")
    assert ran.code == 130 and ran.error["type"] == "Interrupted"


def test_without_the_compiler_extra(process, encoder, tmp_path):
    """Help, inspect and run need neither TVM nor torch; what does says which extra to install."""
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 14, 28), np.float32))
    missing = ("tvm", "networkx", "filelock", "torch", "PIL")
    for line in (
        ["--help"],
        ["inspect", encoder],
        ["run", encoder, f"--input=image={tmp_path / 'x.npy'}", "--output", tmp_path],
    ):
        assert process(line, missing).code == 0
    for line, extra in ((["list"], "compiler"), (["compile", "cgspn:tiny", *OUT], "compiler"), (["check"], "torch")):
        ran = process([*line, "--json"], missing)
        assert ran.code == 1 and ran.error["type"] == "ToolchainError" and f"treadle[{extra}]" in ran.error["hint"]
