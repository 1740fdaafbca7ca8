"""Compares the versions that a worker image's name tells with the launcher's."""

from __future__ import annotations

import re
import sys
from importlib import metadata

from captionbeam.jobs.options.shared import require

PYTHON = re.compile(r"(?:py|python)-?(3\.\d+)")
BEAM = re.compile(r"beam[_-]?(2\.\d+\.\d+)|beam_python3\.\d+_sdk:(2\.\d+\.\d+)")


def check_versions(image: str | None) -> None:
    """Raises RequestError for an image with another Python or Beam, whose workers could not read the job."""
    here = {"Python": ".".join(map(str, sys.version_info[:2])), "Beam": metadata.version("apache-beam")}
    for name, pattern in (("Python", PYTHON), ("Beam", BEAM)):
        found = pattern.search(image or "")
        there = next(filter(None, found.groups()), None) if found else None
        require(
            there in (None, here[name]),
            f"the image {image} has {name} {there}, this launcher {here[name]}; expected the same",
        )
