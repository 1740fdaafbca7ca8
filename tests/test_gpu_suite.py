"""tests/gpu runs without Beam, and its tests run on a CPU, so that they are fit for the machine that they are for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "gpu"
WITHOUT_BEAM = "import sys, pytest; sys.modules['apache_beam'] = None; sys.exit(pytest.main(sys.argv[1:]))"


@pytest.mark.engines
def test_all_but_what_needs_cuda_passes_on_a_cpu_without_beam():
    flags = [f"--confcutdir={FOLDER}", "-m", "gpu", "-q", "-p", "no:cacheprovider", str(FOLDER)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_BEAM, *flags],
        env={**os.environ, "CAPTIONBEAM_TEST_DEVICE": "cpu"},
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 skipped" in done.stdout
    assert "| encode, resnet50, bf16, images/s |" in done.stdout


def test_without_a_cuda_device_it_says_so():
    code = "import torch; torch.cuda.is_available = lambda: False; " + WITHOUT_BEAM
    flags = [
        f"--confcutdir={FOLDER}",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        str(FOLDER / "test_faults.py"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=FOLDER.parents[1], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "finds no CUDA device; expected one" in done.stdout
