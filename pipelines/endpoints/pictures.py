"""Pictures as an endpoint takes them: upright RGB JPEG, of limited size, without metadata, in a ``data:`` URL."""

from __future__ import annotations

import base64
import io
import re

from PIL import Image

from captionbeam.capmodel.encoders.image_files import DECODE_ERRORS, open_image
from captionbeam.capmodel.encoders.images import decode_image, is_upright, within

QUALITY = 90
LONGEST_SIDE = 65_500  # of a JPEG, by libjpeg

# Markers of a JPEG (ITU T.81, table B.1)
_START, _END, _SCAN, _COMMENT = b"\xff\xd8", b"\xff\xd9", 0xDA, 0xFE
_APP0, _APP2, _APP14, _APP15 = 0xE0, 0xE2, 0xEE, 0xEF
_TABLES = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDD, _SCAN}) - {
    0xC8
}  # frames, Huffman, quantization, restarts
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # stuffed zeros and restarts belong to the scan


def as_data_url(data: bytes, max_pixels: int) -> str:
    """Returns an image file's bytes as ``data:image/jpeg;base64,...`` of at most ``max_pixels`` pixels.

    A JPEG that is upright, RGB and small enough is not encoded again: it keeps its pixels, colour profile and density.
    No picture has EXIF (which may have a place), XMP, comments, thumbnails or bytes after its end. Raises ImageError.
    """
    jpeg = _without_metadata(data) if _fits(data, max_pixels) else None
    if jpeg is None:
        jpeg = _as_jpeg(data, max_pixels)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _fits(data: bytes, max_pixels: int) -> bool:
    """Whether the file is a complete, upright RGB JPEG of at most ``max_pixels``."""
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    try:
        with open_image(data) as image:
            width, height = image.size
            if (image.format, image.mode) != ("JPEG", "RGB") or width * height > max_pixels:
                return False
            image.draft("RGB", (1, 1))  # reads all of the file, and computes few pixels
            image.load()
            return is_upright(image)
    except DECODE_ERRORS:
        return False  # ``decode_image`` says what is wrong


def _without_metadata(data: bytes) -> bytes | None:
    """Returns a JPEG without the segments that its pixels do not need, or None if its structure is unusual."""
    kept, at = [_START], len(_START)
    while (marker := data[at : at + 2]) != _END:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if len(marker) < 2 or marker[0] != 0xFF or not at + 4 <= end <= len(data):
            return None
        payload = _needed(marker[1], data[at + 4 : end])
        if payload is None:
            return None
        if payload:
            kept += [marker, (len(payload) + 2).to_bytes(2, "big"), payload]
        at = end
        if marker[1] == _SCAN:
            after = _AFTER_SCAN.search(data, end)
            if after is None:
                return None
            at = after.start()
            kept.append(data[end:at])
    return b"".join([*kept, _END])


def _needed(kind: int, payload: bytes) -> bytes | None:
    """Returns what pixels need of a segment, b"" if nothing, None if the kind is unusual."""
    if kind == _APP0 and payload.startswith(b"JFIF\0") and len(payload) >= 14:
        return payload[:12] + b"\0\0"  # without its thumbnail
    if kind == _APP2 and payload.startswith(b"ICC_PROFILE\0"):
        return payload
    if kind == _APP14 and payload.startswith(b"Adobe"):
        return payload[:12]
    if _APP0 <= kind <= _APP15 or kind == _COMMENT:
        return b""
    return payload if kind in _TABLES else None


def _as_jpeg(data: bytes, max_pixels: int) -> bytes:
    image = within(Image.fromarray(decode_image(data, enough=max_pixels)), max_pixels, LONGEST_SIDE)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
