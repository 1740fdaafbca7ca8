"""Worker images, as far as their names tell what is in them."""

from __future__ import annotations

import re
import sys
from importlib import metadata

from jobs.options import require

PYTHON = re.compile(r"(?:py|python)-?(3\.\d+)")
BEAM = re.compile(r"beam[_-]?(2\.\d+\.\d+)|beam_python3\.\d+_sdk:(2\.\d+\.\d+)")


def check_image(image: str | None) -> None:
    """Raises RequestError where the name of a worker image speaks of other versions than the launcher's.

    Pickled functions do not travel between versions of Python, nor requests between versions of Beam.
    """
    here = {"Python": ".".join(map(str, sys.version_info[:2])), "Beam": metadata.version("apache-beam")}
    for name, pattern in (("Python", PYTHON), ("Beam", BEAM)):
        found = pattern.search(image or "")
        there = next(filter(None, found.groups()), None) if found else None
        require(
            there in (None, here[name]),
            f"the image {image} has {name} {there}, this launcher {here[name]}; expected the same",
        )
