"""JPEG XL files by pillow-jxl-plugin (the extra ``jxl``).

Its Pillow plugin decodes all pixels when it opens a file, and gives the last picture of an animation.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import ExifTags, Image, ImageFile, ImageOps
from pillow_jxl import Decoder

from captionbeam.capmodel.encoders.image_files import DECODE_ERRORS, boxes
from captionbeam.schemas.errors import ImageError

# ISO 18181-1, SizeHeader: the bits of a side by its selector, and width / height by their ratio
_SIDE_BITS = (9, 13, 18, 30)
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


class JpegXlImageFile(ImageFile.ImageFile):
    """A JPEG XL whose pixels, upright, and EXIF block are there after ``load``."""

    format = "JXL"
    format_description = "JPEG XL image"

    def _open(self) -> None:
        assert self.fp is not None
        self._data: bytes | None = self.fp.read()
        bits = _Bits(_codestream(self._data))
        self._size = bits.size()
        self._mode = "RGB"
        if bits.is_animated():
            raise ImageError("unsupported", "decode", "JXL animation; expected a single picture")

    def load(self) -> Any:
        if self._data is not None:
            data, self._data = self._data, None
            image = _decoded(data)
            self._size, self._mode, self.im, self.info = image.size, image.mode, image.im, image.info
        return super().load()


def _decoded(data: bytes) -> Image.Image:
    """Returns the upright image, with ``info`` of its EXIF block and colour profile."""
    try:
        is_jpeg, info, pixels, profile, found = Decoder(num_threads=0)(data)
    except RuntimeError as err:
        raise ValueError("its pixels cannot be decoded") from err
    if is_jpeg:  # the bytes of the JPEG that it was made from
        return ImageOps.exif_transpose(Image.open(io.BytesIO(pixels), formats=("JPEG",)))
    image = Image.frombytes(info.mode, (info.width, info.height), pixels)
    block = next((box.data for box in found if box.box_type == b"Exif"), None)
    image.info["icc_profile"] = profile
    if block:
        image.info["exif"] = _upright(block)
    return image


def _upright(block: bytes) -> bytes:
    """Returns an Exif box's block without its orientation, since the codestream's own counts; b"" if it is broken."""
    exif = Image.Exif()
    try:
        exif.load(b"Exif\0\0" + block[0 if block[:2] in (b"II", b"MM") else 4 :])
        exif.pop(ExifTags.Base.Orientation, None)
        return exif.tobytes()
    except DECODE_ERRORS:
        return b""


def _codestream(data: bytes) -> bytes:
    """Returns the first bytes of the codestream. Raises ValueError where there is none."""
    if data.startswith(b"\xff\x0a"):
        return data[:64]
    for kind, start, _ in boxes(data):
        if kind in (b"jxlc", b"jxlp"):
            start += 4 * (kind == b"jxlp")
            return data[start : start + 64]
    raise ValueError("it has no codestream")


class _Bits:
    """The bits of a codestream's header, the least significant of each byte first."""

    def __init__(self, codestream: bytes) -> None:
        self._bits = int.from_bytes(codestream[2:], "little")

    def take(self, count: int) -> int:
        value = self._bits & ((1 << count) - 1)
        self._bits >>= count
        return value

    def size(self) -> tuple[int, int]:
        """Reads a SizeHeader; returns width and height."""
        small = self.take(1)
        height = self._side(small)
        ratio = self.take(3)
        if ratio == 0:
            return self._side(small), height
        over, under = _RATIOS[ratio - 1]
        return height * over // under, height

    def _side(self, small: int) -> int:
        return 8 * (self.take(5) + 1) if small else self.take(_SIDE_BITS[self.take(2)]) + 1

    def is_animated(self) -> bool:
        """Reads the ImageMetadata after the size, up to ``have_animation``."""
        all_default, extra_fields = self.take(1), self.take(1)
        if all_default or not extra_fields:
            return False
        self.take(3)  # the orientation
        if self.take(1):
            self.size()  # the intrinsic size
        has_preview = self.take(1)
        return not has_preview and bool(self.take(1))
