"""What an image file says about itself: its size and format, and when and with what it was taken, by its EXIF block."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from captionbeam.schemas.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

ABOUT = pa.schema(
    [
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("taken", pa.timestamp("ms")),
        ("taken_offset", pa.string()),
        ("orientation", pa.int8()),
        ("camera", pa.string()),
    ]
)
PLACE = pa.schema([("latitude", pa.float64()), ("longitude", pa.float64())])
NAMES = (*ABOUT.names, *PLACE.names)
"""``width`` and ``height`` are pixels as stored, before ``orientation`` (1 to 8). ``taken`` is the camera's clock,
``taken_offset`` its difference from UTC (``+02:00``) if the camera wrote it. A place is in degrees, WGS 84."""

_WIDTH, _HEIGHT, _ORIENTATION, _MAKE, _MODEL = 0x0100, 0x0101, 0x0112, 0x010F, 0x0110
_EXIF, _GPS = 0x8769, 0x8825
_TAKEN, _OFFSET, _FRACTION = 0x9003, 0x9011, 0x9291
_LATITUDE, _LONGITUDE = (1, 2), (3, 4)  # tags of the side (N, S, E, W), and of degrees, minutes and seconds
_MOST_LETTERS = 200


def exif_schema(names: Sequence[str]) -> pa.Schema:
    """Returns names and types of those of NAMES that are in ``names``."""
    return pa.schema([field for field in (*ABOUT, *PLACE) if field.name in names])


def read_exif(data: bytes, names: Sequence[str]) -> dict[str, Any]:
    """Returns the values of ``names``, some of NAMES, of the image file ``data``; values that it lacks are left out.

    Reads the header only. A file that is no image, or whose EXIF block is broken, has what can be read of it.
    """
    from PIL import Image

    from captionbeam.capmodel.encoders.image_files import DECODE_ERRORS, open_image
    from captionbeam.capmodel.encoders.images import MAX_PIXELS

    found: dict[str, Any] = {}
    try:
        with open_image(data) as image:
            if image.format == "JXL" and image.width * image.height <= MAX_PIXELS:
                image.load()  # its EXIF block may be compressed
            width, height = _size(image)
            found = {"width": width, "height": height, "format": _format(image)}
            exif = Image.Image.getexif(image)  # that of PNG would decode the pixels
            found |= {"orientation": _orientation(exif.get(_ORIENTATION)), "camera": _camera(exif)}
            found |= _taken(exif.get_ifd(_EXIF))
            if not {*names}.isdisjoint(PLACE.names):
                found |= _place(exif.get_ifd(_GPS))
    except (ImageError, *DECODE_ERRORS):
        pass  # what is broken, or too large, is left out; decoding the pixels says what is wrong
    return {name: value for name, value in found.items() if value is not None and name in names}


def _size(image: Image.Image) -> tuple[int, int]:
    """Returns width and height as stored. Pillow gives those of a TIFF as turned by its orientation."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return tags.get(_WIDTH, image.width), tags.get(_HEIGHT, image.height)


def _format(image: Image.Image) -> str | None:
    return "JPEG" if image.format == "MPO" else image.format  # a JPEG with further pictures behind it


def _orientation(value: Any) -> int | None:
    return value if isinstance(value, int) and 1 <= value <= 8 else None


def _camera(exif: Mapping[int, Any]) -> str | None:
    """Returns make and model; most models have their make in front already."""
    make, model = _text(exif.get(_MAKE)), _text(exif.get(_MODEL))
    if make and model and model.split()[0].casefold() != make.split()[0].casefold():
        return f"{make} {model}"[:_MOST_LETTERS]
    return (model or make)[:_MOST_LETTERS] or None


def _text(value: Any) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return " ".join(text.replace("\0", " ").split()) if isinstance(text, str) else ""


def _taken(exif: Mapping[int, Any]) -> dict[str, Any]:
    fraction = _text(exif.get(_FRACTION))
    text = f"{_text(exif.get(_TAKEN))}.{fraction[:6] if fraction.isdecimal() else 0}"
    try:
        taken = datetime.datetime.strptime(text, "%Y:%m:%d %H:%M:%S.%f")
    except ValueError:  # also of a camera whose clock was never set: "0000:00:00 00:00:00"
        return {}
    return {
        "taken": taken.replace(microsecond=taken.microsecond // 1000 * 1000),
        "taken_offset": _offset(exif),
    }


def _offset(exif: Mapping[int, Any]) -> str | None:
    offset = _text(exif.get(_OFFSET))
    try:
        datetime.datetime.strptime(offset, "%z")
    except ValueError:
        return None
    return offset


def _place(gps: Mapping[int, Any]) -> dict[str, float]:
    """Returns latitude and longitude, or neither."""
    latitude, longitude = _degrees(gps, _LATITUDE, "NS", 90), _degrees(gps, _LONGITUDE, "EW", 180)
    return {} if latitude is None or longitude is None else {"latitude": latitude, "longitude": longitude}


def _degrees(gps: Mapping[int, Any], tags: tuple[int, int], sides: str, most: int) -> float | None:
    side, parts = _text(gps.get(tags[0])).upper(), gps.get(tags[1])
    if not isinstance(parts, tuple) or len(parts) != 3 or side not in {*sides}:
        return None
    value: float = sum(float(part) / 60**power for power, part in enumerate(parts))
    if not math.isfinite(value) or value > most:
        return None
    return -value if side == sides[1] else value
