"""Prism, Beam's portable local runner, built from its Go module."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import apache_beam
import pytest

from tests.builders.cached import cached, need

PRISM = "github.com/apache/beam/sdks/v2/go/cmd/prism"


def prism_binary() -> Path:
    """Prism of the installed Beam's version, built the first time (minutes); skips the test where that cannot be."""
    version = f"v{apache_beam.__version__}"
    return cached(f"prism-{version}", lambda folder: _build(folder, version)) / "prism"


def _build(folder: Path, version: str) -> None:
    done = subprocess.run(
        [need("go", "Prism"), "install", f"{PRISM}@{version}"],
        env={**os.environ, "GOBIN": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = (done.stderr.strip() or "nothing said").splitlines()[-1]
        pytest.skip(f"no Prism: go install {PRISM}@{version} failed: {said}")
