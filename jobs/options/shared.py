"""Checks and readers that several commands share."""

from __future__ import annotations

from captionbeam.schemas.errors import RequestError


def require(condition: bool, sentence: str) -> None:
    """Raises RequestError with ``sentence`` unless ``condition`` holds."""
    if not condition:
        raise RequestError(sentence)


def read_ids(url: str) -> frozenset[str]:
    """Returns the image ids in the text file at ``url``, one per line, with spaces kept. Raises RequestError."""
    from captionbeam.schemas.storage import files

    try:
        text = files.read_bytes(url).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise RequestError(
            f"--ids {url!r} cannot be read ({err}); expected a text file, an id a line"
        ) from err
    found = frozenset(line.removesuffix("\r") for line in text.split("\n")) - {""}
    require(bool(found), f"--ids {url!r} has no id in it; expected an id a line")
    return found
