"""The page's pictures, as small JPEGs in data URIs or the reason why there is none, and heat maps of attention."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from captionbeam.capmodel.encoders.images import decode_image
from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from captionbeam.pipelines.sources.images import fetch_locations
from captionbeam.schemas.errors import ImageError, RequestError, SystemicError

LONGEST_SIDE, QUALITY = 400, 80
AT_ONCE = 32  # originals in memory at a time
SIDE, LEVELS = 32, 64
# Red, green, blue, alpha at no, half and full attention: dark covers the picture, light reveals it.
_STOPS = np.array([(6, 8, 26, 175), (170, 40, 90, 125), (255, 200, 80, 90)], dtype=float)
_CONTINUES = "@@"
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
        yield from map(_thumbnail, fetch_pictures(locations[start : start + AT_ONCE], reading))


def seen_window(picture: Picture, preprocess: Mapping[str, Any]) -> str:
    """Returns the encoder's part of a picture as CSS ``background-size``, for both kinds of crop.

    It is the central square with a side of ``size / resize`` of the shorter side.
    """
    side = min(picture.width, picture.height) * preprocess["size"] / preprocess["resize"]
    return f"{100 * picture.width / side:.2f}% {100 * picture.height / side:.2f}%"


def data_uri(data: bytes, kind: str) -> str:
    """Returns ``data`` of the MIME type ``kind`` as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def fetch_pictures(locations: Sequence[str], reading: FetchOptions) -> Sequence[bytes | Exception]:
    """Returns the bytes of each location, or its error: all at once, or one by one if a source fails as a whole."""
    try:
        return fetch_locations(locations, reading)
    except Trouble as err:
        return [err] if len(locations) == 1 else [fetch_pictures([one], reading)[0] for one in locations]


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


@dataclass(frozen=True)
class Look:
    """One word and its attention as a heat map (data URI)."""

    word: str
    heat: str


def looks(tokens: Sequence[str], attention: Sequence[Sequence[float]] | None) -> list[Look]:
    """Returns a heat map per word; none if there is no attention, or not over a square grid.

    ``attention`` is [T][H * W], one row per token. Pieces of one word (``gi@@ raffe``) are joined, and their attention
    is averaged.
    """
    cells = len(attention[0]) if attention else 0
    side = math.isqrt(cells)
    if not attention or len(attention) != len(tokens) or side * side != cells or side < 2:
        return []
    grids = np.asarray(attention, dtype=float).reshape(len(tokens), side, side)
    return [Look(word, _heat_map(grids[start:end].mean(0))) for word, start, end in _words(tokens)]


def _words(tokens: Sequence[str]) -> list[tuple[str, int, int]]:
    """Returns each word with the range of its tokens."""
    words, start = [], 0
    for at, token in enumerate(tokens):
        if not token.endswith(_CONTINUES) or at == len(tokens) - 1:
            pieces = [piece.removesuffix(_CONTINUES) for piece in tokens[start : at + 1]]
            words.append(("".join(pieces), start, at + 1))
            start = at + 1
    return words


def _heat_map(grid: np.ndarray) -> str:
    """Returns the attention ``[H, W]`` of one word as a small palette PNG, scaled from its minimum to its maximum.

    If the maximum exceeds the minimum by less than the mean, attention is nearly uniform and the map stays dark.
    """
    above = grid - grid.min()
    levels = above / max(float(above.max()), float(grid.mean()), 1e-9)
    wide = Image.fromarray(levels.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    image = Image.fromarray((np.clip(np.asarray(wide), 0, 1) * (LEVELS - 1)).round().astype(np.uint8), "P")
    image.putpalette(_PALETTE[:, :3].tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=_PALETTE[:, 3].tobytes())
    return data_uri(file.getvalue(), "image/png")


def _palette() -> np.ndarray:
    at = np.linspace(0, 1, LEVELS)
    columns = [np.interp(at, np.linspace(0, 1, len(_STOPS)), _STOPS[:, channel]) for channel in range(4)]
    return np.stack(columns, axis=1).round().astype(np.uint8)


_PALETTE = _palette()
