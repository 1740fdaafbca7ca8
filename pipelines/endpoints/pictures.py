"""Pictures as an endpoint takes them: upright RGB JPEG, of limited size, in a ``data:`` URL."""

from __future__ import annotations

import base64
import io
import math

from PIL import Image

from captionbeam.capmodel.encoders.images import (
    DECODE_ERRORS,
    decode_image,
    is_upright,
)

QUALITY = 90
LONGEST_SIDE = 65_500  # of a JPEG, by libjpeg


def as_data_url(data: bytes, max_pixels: int) -> str:
    """Returns an image file's bytes as ``data:image/jpeg;base64,...`` of at most ``max_pixels`` pixels.

    A JPEG that is upright, RGB and small enough stays as it is, byte for byte. Raises ImageError.
    """
    jpeg = data if _fits(data, max_pixels) else _as_jpeg(data, max_pixels)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _fits(data: bytes, max_pixels: int) -> bool:
    """Whether the file is a complete, upright RGB JPEG of at most ``max_pixels``."""
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            width, height = image.size
            if (image.format, image.mode) != ("JPEG", "RGB") or width * height > max_pixels:
                return False
            image.draft("RGB", (1, 1))  # reads all of the file, and computes few pixels
            image.load()
            return is_upright(image)
    except DECODE_ERRORS:
        return False  # ``decode_image`` says what is wrong


def _as_jpeg(data: bytes, max_pixels: int) -> bytes:
    image = Image.fromarray(decode_image(data, enough=max_pixels))
    size = scaled(image.size, max_pixels)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def scaled(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """Returns width and height within ``max_pixels``, in the proportions of ``size``; each is at least 1."""
    width, height = size
    scale = min(1.0, math.sqrt(max_pixels / (width * height)), LONGEST_SIDE / max(size))
    if scale == 1.0:
        return size
    short = max(1, int(min(size) * scale))
    long = min(int(max(size) * scale), max_pixels // short)
    return (long, short) if width >= height else (short, long)
