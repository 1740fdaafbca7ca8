"""The page's pictures: small JPEGs as data URIs, or the reason why there is none."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from captionbeam.capmodel.encoders.images import decode_image
from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from captionbeam.pipelines.fetch.images import fetch_locations
from captionbeam.schemas.errors import ImageError, RequestError, SystemicError

LONGEST_SIDE, QUALITY = 400, 80
AT_ONCE = 32  # originals in memory at a time
Trouble = (ImageError, SystemicError, RequestError, OSError)


@dataclass(frozen=True)
class Picture:
    """A thumbnail as a data URI with its size in pixels, or the ``trouble`` that prevented it."""

    data_uri: str = ""
    width: int = 4
    height: int = 3
    trouble: str = ""

    @property
    def ratio(self) -> str:
        """CSS ``aspect-ratio``, limited for extremely tall or wide pictures."""
        return f"{min(max(self.width / self.height, 0.75), 2.0):.4f}"


def read_pictures(locations: Sequence[str], reading: FetchOptions) -> Iterator[Picture]:
    """Yields the pictures at ``locations``, in order."""
    for start in range(0, len(locations), AT_ONCE):
        yield from map(_thumbnail, _fetch(locations[start : start + AT_ONCE], reading))


def seen_window(picture: Picture, preprocess: Mapping[str, Any]) -> str:
    """Returns the encoder's part of a picture as CSS ``background-size``, for both kinds of crop.

    It is the central square with a side of ``size / resize`` of the shorter side.
    """
    side = min(picture.width, picture.height) * preprocess["size"] / preprocess["resize"]
    return f"{100 * picture.width / side:.2f}% {100 * picture.height / side:.2f}%"


def data_uri(data: bytes, kind: str) -> str:
    """Returns ``data`` of the MIME type ``kind`` as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _fetch(locations: Sequence[str], reading: FetchOptions) -> Sequence[bytes | Exception]:
    """Fetches all locations at once, or one by one if a source fails as a whole."""
    try:
        return fetch_locations(locations, reading)
    except Trouble as err:
        return [err] if len(locations) == 1 else [_fetch([one], reading)[0] for one in locations]


def _thumbnail(data: bytes | Exception) -> Picture:
    if not isinstance(data, bytes):
        return Picture(trouble=str(data))
    try:
        image = Image.fromarray(decode_image(data))
    except ImageError as err:
        return Picture(trouble=str(err))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, optimize=True)
    return Picture(data_uri(file.getvalue(), "image/jpeg"), *image.size)
