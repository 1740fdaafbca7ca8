"""Prism, Beam's portable local runner, built from its Go module."""

from __future__ import annotations

from pathlib import Path

import apache_beam

from tests.builders.running.cached import cached
from tests.builders.web.fetched import fetch, need

PRISM = "github.com/apache/beam/sdks/v2/go/cmd/prism"


def prism_binary() -> Path:
    """Prism of the installed Beam's version, built the first time (minutes); skips the test where Go is missing."""
    version = f"v{apache_beam.__version__}"
    return cached(f"prism-{version}", lambda folder: _build(folder, version)) / "prism"


def _build(folder: Path, version: str) -> None:
    fetch([need("go", "Prism"), "install", f"{PRISM}@{version}"], "Prism", GOBIN=str(folder))
