"""Opens image files of every supported format, which it recognises by their first bytes, whatever their names."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Literal

from PIL import Image

from captionbeam.schemas.errors import ImageError, not_installed

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "HEIF", "JXL")

# Raised by decoders for bytes that contradict their header (found by fuzzing).
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, RuntimeError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+"), "TIFF"),
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JXL",
    b"\xff\x0a": "JXL",
}
_AVIF = {b"avif", b"avis"}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

# Boxes that a reader needs; cameras and programs add others, also bytes that are no boxes.
_BOXES = set(b"ftyp meta moov mdat jp2h jp2c jxlc jxlp jbrd brob".split())
# Whose decoders fill in what a cut file lacks, without telling: libheif tiles, OpenJPEG details
_LENIENT = ("HEIF", "JPEG2000")
_EXTRAS = {"HEIF": ("pillow-heif", "heif"), "JXL": ("pillow-jxl-plugin", "jxl")}

Image.init()  # fills Image.OPEN


def open_image(data: bytes) -> Image.Image:
    """Returns Pillow's image with its header read and nothing decoded yet, of any number of pixels.

    Unlike ``Image.open`` it does not ask Pillow's limit of pixels, a global of the whole process. Raises ImageError
    (``unsupported``), and DECODE_ERRORS for a broken header.
    """
    name = format_of(data)
    if name is None:
        raise ImageError("unsupported", "decode", f"no picture in {FORMATS} starts with {data[:16]!r}")
    opener = _opener(name)
    if name in _LENIENT and ends_early(data, name):
        raise ValueError("it ends within its pixels")
    if name == "JPEG2000":
        _refuse_deep_colour(data)
    return opener(io.BytesIO(data), "")


def format_of(data: bytes) -> str | None:
    """Returns which of FORMATS the first bytes of ``data`` announce; None if none."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brands = {data[at : at + 4] for at in (8, *range(16, min(int.from_bytes(data[:4], "big"), 256), 4))}
        return "AVIF" if brands & _AVIF else "HEIF" if brands & _HEIF else None
    return next((name for start, name in _SIGNATURES.items() if data.startswith(start)), None)


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields kind, start and end of the content of each box of ISO 14496-12; the last may end beyond ``data``."""
    at = 0
    while at < len(data):
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = at + max(size, head) if size else max(len(data), at + head)
        yield data[at + 4 : at + 8], at + head, end
        at = end


def ends_early(data: bytes, name: str) -> bool:
    """Returns whether a broken file is truncated, according to its format's end marker or length field."""
    if name in ("JPEG", "MPO") or data.startswith(b"\xff\x4f"):  # a bare codestream of JPEG 2000
        return b"\xff\xd9" not in data[-4096:]
    if name == "PNG":
        return b"IEND" not in data[-4096:]
    if name == "WEBP":
        return len(data) < 8 or len(data) < 8 + int.from_bytes(data[4:8], "little")
    if name == "GIF":
        return not data.rstrip(b"\0").endswith(b";")
    if name == "BMP":
        return len(data) < 6 or len(data) < int.from_bytes(data[2:6], "little")
    if name == "TIFF":
        order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
        return len(data) < 8 or len(data) < int.from_bytes(data[4:8], order) + 2
    if name in ("AVIF", "HEIF", "JPEG2000") or (name == "JXL" and not data.startswith(b"\xff\x0a")):
        return any(end > len(data) for kind, _, end in boxes(data) if kind in _BOXES)
    return False


def _refuse_deep_colour(data: bytes) -> None:
    """Raises ImageError for what Pillow reads with white as black: several channels of more than 8 bits.

    It adds a half before it shifts, without saturation. The depths are in the segment SIZ (ITU-T T.800, A.5.1).
    """
    start = data.find(b"\xff\x4f\xff\x51")
    channels = int.from_bytes(data[start + 40 : start + 42], "big")
    depth = max((1 + (each & 0x7F) for each in data[start + 42 : start + 42 + 3 * channels : 3]), default=0)
    if start >= 0 and channels > 1 and depth > 8:
        raise ImageError(
            "unsupported", "decode", f"JPEG2000 in colour with {depth} bits a channel; expected 8"
        )


def _opener(name: str) -> Callable[[io.BytesIO, str], Image.Image]:
    """Returns what opens a format's files. Raises ImageError if its package is not installed."""
    try:
        if name == "HEIF":
            from captionbeam.capmodel.encoders.heif import HeifImageFile

            return HeifImageFile
        if name == "JXL":
            from captionbeam.capmodel.encoders.jpeg_xl import JpegXlImageFile

            return JpegXlImageFile
    except ImportError as err:
        raise ImageError("unsupported", "decode", f"{name}: {not_installed(*_EXTRAS[name])}") from err
    return Image.OPEN[name][0]
