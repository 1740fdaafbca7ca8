"""Small pictures whose every pixel is known, as arrays and as files in any format."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image


def drawn(width: int = 48, height: int = 32) -> np.ndarray:
    """uint8 ``[height, width, 3]``: two gradients and a disc, from integers alone, so the same everywhere."""
    y, x = np.mgrid[:height, :width]
    disc = (2 * x - width) ** 2 + (2 * y - height) ** 2 < min(width, height) ** 2 // 2
    channels = [x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), np.where(disc, 230, 40)]
    return np.stack(channels, -1).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """``image`` as a file of the format that Pillow calls ``kind``; skips the test where an extra is missing."""
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif kind == "JXL":
        pytest.importorskip("pillow_jxl")
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation: int) -> bytes:
    """An EXIF block that says nothing but ``orientation``."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to have ``width`` x ``height`` pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
