"""Decodes images of every format to 8-bit RGB pixels, identically on every machine.

Pixels are upright, opaque RGB: EXIF orientation is applied, an animation gives its first frame, transparency is
blended with white, CMYK is read as Adobe writes it, and 16-bit values are rounded to 8 bits.
"""

from __future__ import annotations

import math
import threading
import warnings
from contextlib import nullcontext

import numpy as np
from PIL import ExifTags, Image

from captionbeam.capmodel.encoders.image_files import DECODE_ERRORS, ends_early, format_of, open_image
from captionbeam.schemas.errors import ImageError

MAX_PIXELS = 100_000_000
GIANT_PIXELS = 16_000_000  # larger images are decoded one at a time: one near the limit takes up to 2 GB
BACKGROUND = (255, 255, 255)

_TURNS = {  # EXIF orientations other than upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_giant = threading.Lock()

# Pillow warns of unusual metadata and of large images below our limit; relevant problems raise here.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, enough: int | None = None) -> np.ndarray:
    """Returns the image in ``data`` as uint8 ``[H, W, 3]``, RGB, upright.

    ``enough``: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its sides, while that leaves so many pixels.

    Raises ImageError of stage ``decode``: ``empty`` (no bytes), ``unsupported`` (not an image, or an unsupported kind),
    ``too_large`` (more than ``max_pixels``), ``truncated`` (the file ends too early), ``decode`` (any other defect).
    """
    if not data:
        raise _error("empty", "the file has no bytes")
    image = _open(data, max_pixels)
    alone = _giant if image.width * image.height > GIANT_PIXELS else nullcontext()
    if enough is not None:
        _reduce(image, enough)
    try:
        with alone:
            image.load()
            turn = _TURNS.get(_orientation(image))
            return np.array(_to_rgb(image if turn is None else image.transpose(turn)))
    except DECODE_ERRORS as err:
        if _lacks_strips(image, len(data)):
            raise _error("truncated", f"TIFF of {len(data)} bytes: its pixels lie beyond") from err
        raise _broken(data, image.format or "image", err) from err


def _error(code: str, message: str) -> ImageError:
    return ImageError(code, "decode", message)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Returns Pillow's image with its header read and nothing decoded yet."""
    try:
        image = open_image(data)
    except DECODE_ERRORS as err:
        raise _broken(data, format_of(data) or "image", err) from err
    width, height = image.size
    if width * height > max_pixels:
        raise _error("too_large", f"{width} x {height} pixels; expected at most {max_pixels} in all")
    return image


def _reduce(image: Image.Image, enough: int) -> None:
    """Makes the decoder of a JPEG scale it down; has no effect on other formats."""
    width, height = image.size
    scale = min(1.0, (enough / (width * height)) ** 0.5)
    if image.format in ("JPEG", "MPO"):  # HEIF's would give an embedded thumbnail
        image.draft(None, (math.ceil(width * scale), math.ceil(height * scale)))


def within(image: Image.Image, max_pixels: int, longest: int | None = None) -> Image.Image:
    """Returns the image scaled down to at most ``max_pixels`` and sides of at most ``longest``, or as it is."""
    size = scaled(image.size, max_pixels, longest)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def scaled(size: tuple[int, int], max_pixels: int, longest: int | None = None) -> tuple[int, int]:
    """Returns width and height within the limits of ``within``, in the proportions of ``size``, each at least 1."""
    width, height = size
    scale = min(1.0, math.sqrt(max_pixels / (width * height)), (longest or max(size)) / max(size))
    if scale == 1.0:
        return size
    short = max(1, int(min(size) * scale))
    long = max(1, min(int(max(size) * scale), max_pixels // short))
    return (long, short) if width >= height else (short, long)


def is_upright(image: Image.Image) -> bool:
    """Returns whether an image is stored as it is to be seen, according to its EXIF block."""
    return _orientation(image) not in _TURNS


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation; 1 (upright) if the EXIF block is missing or broken."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODE_ERRORS:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB. Raises ImageError(``unsupported``) for pixels without a defined range."""
    if image.mode in ("I", "F"):
        raise _error(
            "unsupported", f"{image.format} with pixels of mode {image.mode}; expected 8 or 16 bits a channel"
        )
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)  # scales by 1 / 257 and rounds; ``convert`` would clip
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image).convert("RGB")
    return image.convert("RGB")


def _broken(data: bytes, name: str, err: Exception) -> ImageError:
    code = "truncated" if ends_early(data, name) else "decode"
    if isinstance(
        err, Image.DecompressionBombError
    ):  # of a GIF's frame or a TIFF's tile larger than the image
        code = "too_large"
    return _error(code, f"{name} of {len(data)} bytes: {str(err) or type(err).__name__}")


def _lacks_strips(image: Image.Image, size: int) -> bool:
    """Whether a TIFF's strip or tile table points beyond its ``size`` bytes."""
    if image.format != "TIFF":
        return False
    tags = getattr(image, "tag_v2", {})
    places = tags.get(ExifTags.Base.StripOffsets) or tags.get(ExifTags.Base.TileOffsets) or ()
    counts = tags.get(ExifTags.Base.StripByteCounts) or tags.get(ExifTags.Base.TileByteCounts) or ()
    return any(place + count > size for place, count in zip(places, counts, strict=False))
