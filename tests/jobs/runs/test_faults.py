"""Killed at random moments, on a full disk, from a failing source; ``benchmarks/faults.py`` does it by the hundred."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.builders.running.commands import ROOT


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


CODES = {"row", "decode", "truncated", "unsupported", "empty", "too_large"}


def test_each_of_hundreds_of_broken_files_becomes_a_row_or_one_failure_with_the_right_code(tmp_path):
    data = os.environ.get("CAPTIONBEAM_DATA")
    pictures = ["--pictures", f"{data}/coco-mini"] if data else []
    command = [
        sys.executable,
        "benchmarks/broken_inputs.py",
        "--cases",
        "300",
        *pictures,
        "--scratch",
        tmp_path,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert figures["wrong"] == []
    assert figures["cases"] == sum(figures["outcomes"].values()) == 150 + 50 + 2 + 50 + 10 + 50
    assert Counter(figures["outcomes"]).keys() == CODES
