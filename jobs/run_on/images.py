"""Checks worker images by their names."""

from __future__ import annotations

import re
import sys
from importlib import metadata

from captionbeam.jobs.options.shared import require

PYTHON = re.compile(r"(?:py|python)-?(3\.\d+)")
NAME = re.compile(r"[\w.-]+(:\d+)?(/[a-z0-9._-]+)*(:[\w.-]{1,128})?(@sha256:[0-9a-f]{64})?", re.ASCII)
BEAM = re.compile(r"beam[_-]?(2\.\d+\.\d+)|beam_python3\.\d+_sdk:(2\.\d+\.\d+)")


def check_image(image: str | None) -> None:
    """Raises RequestError for an invalid image name, or one that names other versions than the launcher's.

    Pickled functions are not portable between Python versions, nor requests between Beam versions.
    """
    require(
        image is None or NAME.fullmatch(image) is not None,
        f"--sdk_container_image {image!r} is no name of an image; expected REGISTRY/FOLDER/NAME:TAG",
    )
    here = {"Python": ".".join(map(str, sys.version_info[:2])), "Beam": metadata.version("apache-beam")}
    for name, pattern in (("Python", PYTHON), ("Beam", BEAM)):
        found = pattern.search(image or "")
        there = next(filter(None, found.groups()), None) if found else None
        require(
            there in (None, here[name]),
            f"the image {image} has {name} {there}, this launcher {here[name]}; expected the same",
        )
