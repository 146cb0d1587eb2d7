"""The stand-in for CUDA under a CUDA program, and what goes wrong there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from treadle.codegen.ptxsim import tensor_map

HERE = Path(__file__).parent
SOURCE = HERE / "standin" / "program.cu"


@pytest.fixture(scope="module")
def program(standin, tmp_path_factory):
    """program("launches"): the lines that a case of program.cu prints."""
    from treadle.codegen import nvcc
    from treadle.codegen.cxx import compiler

    folder = tmp_path_factory.mktemp("program")
    flags = ["-std=c++17", "-O2", "-lineinfo", "-cudart=shared", "-gencode=arch=compute_90a,code=sm_90a", "--keep"]
    command = [nvcc.find().path, *flags, "-ccbin", compiler()[0], str(SOURCE), "-o", "program"]
    subprocess.run(command, cwd=folder, check=True, env=nvcc.environment())
    (folder / "program.ptx").rename(folder / "program.sm_90a.ptx")

    def run(case, **variables):
        environment = standin.environment() | variables
        done = subprocess.run([folder / "program", case], capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    run.folder = folder
    return run


def line(text):
    """Where the source says so, as errors name it."""
    (number,) = (n for n, here in enumerate(SOURCE.read_text().splitlines(), 1) if here == text)
    return f"program.cu:{number}"


def test_launches_copies_and_structures(program):
    assert program("launches") == ["1.5 200.5", "7.5", "2 2"]


@pytest.mark.parametrize(("seed", "jobs"), [("0", "2"), ("7", "1")])
def test_the_machine_takes_its_settings_from_the_environment(program, seed, jobs):
    assert program("launches", TREADLE_PTX_SEED=seed, TREADLE_PTX_JOBS=jobs) == ["1.5 200.5", "7.5", "2 2"]


def test_a_graph_of_two_streams_is_replayed_in_order(program):
    replayed, spoilt, ended = program("graph")
    assert replayed == "3.5 202.5"
    assert "cudaErrorStreamCaptureUnsupported" in spoilt and "cudaErrorStreamCaptureInvalidated" in ended


def test_clusters(program):
    ranks, refused = program("cluster")
    assert ranks.split() == ["0", "1", "2", "3"] * 2
    assert "cudaErrorInvalidClusterSize" in refused


def test_a_hazard_breaks_the_device_until_it_is_reset(program):
    first, *later, after = program("bounds")
    assert "cudaErrorIllegalAddress: BoundsHazard: kernel _Z13add_uncheckedPfPKff, CTA (1, 0, 0), thread (72, 0, 0)" in first
    assert line("  y[i] = x[i] + value;") in first
    assert "800 bytes into one of 800 bytes" in first and "use a new process" in first
    assert len(later) == 2 and all("BoundsHazard" in text for text in later)
    assert after == "1.5 200.5"


def test_memory_that_nobody_wrote(program):
    (said,) = program("uninitialised")
    assert "cudaErrorLaunchFailure: UninitialisedHazard" in said and line("  if (i < n) y[i] = x[i] + value;") in said


def test_what_cuda_refuses(program):
    *refused, after = program("misuse")
    codes = [text.split(": ")[1] for text in refused]
    invalid = "cudaErrorInvalidValue"
    assert codes == ["cudaErrorInvalidConfiguration"] * 2 + [invalid] * 4 + ["cudaErrorMemoryAllocation", invalid, invalid]
    assert "too many threads" in refused[-2] and refused[-1].endswith("invalid argument")  # by the machine; by CUDA again
    assert after == "1 200"


def test_a_tensor_map_is_what_the_machine_reads(program):
    made, refused = program("tensor_map")
    code, raw = made.split()
    expected = tensor_map.encode(
        "bf16", 0x12340, (100, 30, 7), (208, 6240), (64, 8, 2), element_strides=(1, 2, 1), span=128, nan_fill=True, promotion=2
    )
    assert code == "0" and bytes.fromhex(raw) == expected
    assert refused.split() == ["1"] * 4


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"TREADLE_PTX_PYTHON": "no-such-python"}, "cannot be started: no-such-python: No such file"),
        ({"TREADLE_PTX_PYTHON": "false"}, "ended with status 1 before it was ready"),
        ({"TREADLE_PTX_DEVICE": "capability=80"}, "cudaErrorNoKernelImageForDevice"),
    ],
)
def test_a_machine_that_cannot(program, variables, said):
    assert said in program("launches", **variables)[0]


def test_ptx_that_is_missing_or_damaged(program):
    file = program.folder / "program.sm_90a.ptx"
    text = file.read_text()
    try:
        file.unlink()
        assert f"cudaErrorFileNotFound: kernel _Z3addPfPKffi: no PTX of {program.folder}/program" in program("launches")[0]
        file.write_text(text[: len(text) // 2])
        assert "cudaErrorInvalidPtx" in program("launches")[0]
    finally:
        file.write_text(text)


def children(process):
    return [int(p) for p in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def started(program, environment):
    """A program that is in the middle of a kernel, and its machine's process."""
    running = subprocess.Popen([program.folder / "program", "stuck"], stdout=subprocess.PIPE, text=True, env=environment)
    assert running.stdout.readline() == "ready\n"
    time.sleep(1)  # into the kernel
    (machine,) = children(running.pid)
    return running, machine


def test_a_machine_that_dies_is_an_error_of_the_program(program, standin):
    running, machine = started(program, standin.environment())
    os.kill(machine, signal.SIGKILL)
    out, _ = running.communicate(timeout=30)
    assert running.returncode == 0
    assert "cudaErrorDevicesUnavailable: the PTX machine's process was ended by signal 9 while it ran kernel _Z7forever" in out


def test_a_machine_ends_with_its_program(program, standin):
    running, machine = started(program, standin.environment())
    running.kill()
    running.communicate(timeout=30)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{machine}").exists() and "\nState:\tZ" not in Path(f"/proc/{machine}/status").read_text():
        assert time.monotonic() < deadline, "the machine goes on by itself"
        time.sleep(0.1)


def test_the_command_that_runs_a_program(program):
    command = [sys.executable, "-m", "treadle.codegen.ptxsim.standin", program.folder / "program", "launches"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0] == "1.5 200.5"


def test_memory_that_a_process_asks_for_costs_nothing_until_it_is_touched(program):
    assert program("launches", TREADLE_PTX_DEVICE="memory=64") == ["1.5 200.5", "7.5", "2 2"]
