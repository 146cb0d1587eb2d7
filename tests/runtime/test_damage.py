"""Damaged bundles, by the thousand: each is refused with a typed error, or was not damaged in anything that is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("damage.py")
LONG = pytest.mark.long  # two thousand bundles take a minute or two


@pytest.mark.parametrize("cases", [150, pytest.param(2000, marks=LONG)])
def test_damaged_bundles_hurt_nobody(cases: int) -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--cases", str(cases)], stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    assert found["found"] == [] and found["died"] == found["wrong"] == 0
    assert found["refused"] + found["right"] == cases
    # The generator must not have gone soft: few damages are harmless.
    assert found["refused"] > 0.7 * cases
