"""The words of errors: what, where, given, expected, next step."""

from __future__ import annotations

import json
import pickle

import pytest

from treadle import dtypes, errors
from treadle.errors import ArgumentError, TreadleError, UnknownNameError
from treadle.settings import Settings, settings

CLASSES = [
    errors.ArgumentError,
    errors.UnknownNameError,
    errors.BoundsError,
    errors.AlignmentError,
    errors.BundleError,
    errors.ArchError,
    errors.ToolchainError,
    errors.DeviceError,
]


@pytest.mark.parametrize("kind", [TreadleError, *CLASSES])
def test_every_class_says_all_four_things(kind: type[TreadleError]) -> None:
    error = kind("main: image is wrong", given=(1, 2), expected="(2, 2)", hint="Transpose it")
    assert str(error) == "main: image is wrong: given (1, 2), expected (2, 2). Transpose it."
    plain = json.loads(json.dumps(error.to_json()))
    assert plain == {
        "type": kind.__name__,
        "message": "main: image is wrong",
        "given": [1, 2],
        "expected": "(2, 2)",
        "hint": "Transpose it",
    }
    assert isinstance(error, TreadleError)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, str(error))


def test_parts_may_be_missing() -> None:
    assert str(TreadleError("it broke.")) == "it broke."
    assert str(TreadleError("it broke", given=0)) == "it broke: given 0."
    assert str(TreadleError("it broke", hint="Why?")) == "it broke. Why?"


def test_exit_codes_and_bases() -> None:
    assert {kind.__name__: kind.exit_code for kind in CLASSES if kind.exit_code != 1} == {"UnknownNameError": 2}
    assert issubclass(ArgumentError, ValueError)
    assert not issubclass(UnknownNameError, ValueError)


def test_unknown_names_list_what_exists_and_the_nearest() -> None:
    error = UnknownNameError.unknown("program", "scan.gsp", ["norm.layer", "scan.gspn"], where="compile")
    assert str(error) == (
        "compile: unknown program: given 'scan.gsp', expected one of norm.layer, scan.gspn. Did you mean 'scan.gspn'?"
    )
    assert UnknownNameError.unknown("program", "xyz", ["scan.gspn"]).hint is None
    assert "there is no program here" in str(UnknownNameError.unknown("program", "xyz", []))


def test_json_holds_plain_values_only() -> None:
    error = TreadleError("m", given={"at": {1: b"x"}}, expected=range(3))
    assert error.to_json()["given"] == {"at": {"1": "b'x'"}}
    assert error.to_json()["expected"] == "range(0, 3)"


def test_unknown_dtype() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'bfloat16'"):
        dtypes.dtype("bfloat")


def test_dtype_table_agrees_with_numpy() -> None:
    import ml_dtypes

    for name, dtype in dtypes.DTYPES.items():
        assert dtype.numpy.itemsize == dtype.itemsize and dtypes.of_numpy(dtype.numpy) is dtype
        if dtype.floating:
            assert float(ml_dtypes.finfo(dtype.numpy).eps) == dtype.eps, name
    assert dtypes.of_numpy(dtypes.dtype("float32").numpy.newbyteorder(">")) is None


@pytest.mark.parametrize(
    ("name", "field", "good", "value", "bad"),
    [
        ("TREADLE_DEBUG", "debug", "yes", True, "maybe"),
        ("TREADLE_NUM_THREADS", "num_threads", "3", 3, "0"),
        ("TREADLE_NUM_THREADS", "num_threads", "1024", 1024, "1e3"),
    ],
)
def test_settings_are_read_when_asked(
    monkeypatch: pytest.MonkeyPatch, name: str, field: str, good: str, value: object, bad: str
) -> None:
    monkeypatch.delenv(name, raising=False)
    default = getattr(settings, field)
    monkeypatch.setenv(name, "")
    assert getattr(settings, field) == default != value
    monkeypatch.setenv(name, good)
    assert getattr(settings, field) == value
    monkeypatch.setenv(name, bad)
    with pytest.raises(ArgumentError, match=f"{name}.*given '{bad}'"):
        getattr(settings, field)


def test_settings_table_names_every_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.delenv("TREADLE_CACHE_DIR", raising=False)
    assert str(settings.cache_dir) == "/somewhere/treadle"
    assert {variable.name for variable in Settings.table()} == {
        "TREADLE_DEBUG", "TREADLE_NUM_THREADS", "TREADLE_CACHE_DIR", "TREADLE_CXX", "TREADLE_NVCC",
        "TREADLE_PTX_DEVICE", "TREADLE_PTX_JOBS", "TREADLE_PTX_PYTHON", "TREADLE_PTX_SEED",
    }  # fmt: skip
