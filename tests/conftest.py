"""Shared by all tests: a cache of their own, the same for all workers of a run."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "treadle-cache"
    os.environ["TREADLE_CACHE_DIR"] = str(folder)
    return folder
