"""Images that the endpoint's server reads itself: their URLs instead of their bytes."""

from __future__ import annotations

from collections.abc import Sequence

from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.records import ImageRef


def fetch_links(refs: Sequence[ImageRef]) -> list[bytes | ImageError]:
    """Returns each image's URL and version, in two lines, or an ImageError for an image without an http(s) URL.

    The version is included because these bytes stand for the image's content: where they are equal, rows are copied.
    """
    return [_link(ref) for ref in refs]


def url_of(item: bytes) -> str:
    """Returns the URL of what ``fetch_links`` returned."""
    return item.decode().partition("\n")[0]


def _link(ref: ImageRef) -> bytes | ImageError:
    if ref.kind != "file" or not ref.uri.startswith(("http://", "https://")):
        return ImageError(
            "unsupported", "fetch", f"{ref.location} has no http(s) URL that a server can read (--send-urls)"
        )
    return f"{ref.uri}\n{ref.version or ''}".encode()
