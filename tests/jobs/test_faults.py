"""Killed at random moments, on a full disk, from a failing source; ``benchmarks/faults.py`` does it by the hundred."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.builders.commands import ROOT


@pytest.mark.engines
def test_whatever_breaks_the_store_is_clean_and_has_exactly_the_rows(tmp_path):
    command = [sys.executable, "benchmarks/faults.py", "--kills", "4", "--scratch", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert figures.pop("wrong") == []
    assert {name.split(":")[0].split()[0] for name in figures} >= {
        "encode", "caption", "train", "refresh", "full", "read-only", "bad"
    }  # fmt: skip
